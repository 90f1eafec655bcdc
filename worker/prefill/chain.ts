import { sourceRank } from '../../shared/plan.ts'
import type { Routes } from './exchange.ts'

/**
 * KV-Runahead (arXiv 2405.05329, section 3): worker i attends to the KV of all earlier spans and hands that, with its
 * own, to worker i + 1. We differ in two ways. Blocks are cut through: the prefix is passed on as it arrives, not
 * appended to and re-sent, so a slow worker delays only its own blocks. And a block is folded by online softmax when it
 * comes, instead of waiting for the whole prefix.
 */
export const chainRoutes: Routes = {
  source: (a) => sourceRank('chain', a.rank, a.workers.length),
  target: (a) => (a.rank + 1 < a.workers.length ? a.rank + 1 : undefined),
  relays: (a) => a.rank + 1 < a.workers.length,
  origins: (a) => [...Array(a.rank).keys()],
}
