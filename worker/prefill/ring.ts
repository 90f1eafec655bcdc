import { sourceRank } from '../../shared/plan.ts'
import type { Routes } from './exchange.ts'

/**
 * Ring Attention (arXiv 2310.01889) over mirrored ("zigzag") spans: every worker holds a piece of the front and its
 * mirror of the back, so all have equally many visible pairs. A block travels round until the next host is the one that
 * made it. Every worker needs every other's blocks: its back piece sees them.
 */
export const ringRoutes: Routes = {
  source: (a) => sourceRank('ring', a.rank, a.workers.length),
  target: (a) => (a.workers.length > 1 ? next(a) : undefined),
  relays: (a, origin) => origin !== next(a),
  origins: (a) => a.workers.map((_, rank) => rank).filter((rank) => rank !== a.rank),
}

const next = (a: { rank: number; workers: readonly unknown[] }): number => (a.rank + 1) % a.workers.length
