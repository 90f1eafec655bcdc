import type { PieceSet } from '../../shared/model-store/piece-set.ts'
import type { Command } from '../../shared/protocol/control.ts'
import type { ClusterState } from '../cluster/state.ts'

/** Enough to spread over; more would only make the answer long. */
const MOST_SOURCES = 32

/**
 * Where a worker whose model is on its way finds pieces of it, other than here: at every worker that has joined, and at those
 * that fetch it too.
 */
export function sourcesFor(
  state: ClusterState,
  asker: string,
  pieces: number,
): { command: Command; payload: Uint8Array } {
  const fetching = state.fetching.filter(({ url, have }) => url !== asker && have.length === pieces && have.count > 0)
  const partial = fetching.slice(-MOST_SOURCES / 2)
  const whole = state.workers.filter(({ state: is, url }) => is !== 'leaving' && url !== asker).slice(-MOST_SOURCES / 2)
  const sources = [
    ...partial.map(({ url }) => ({ url, whole: false })),
    ...whole.map(({ url }) => ({ url, whole: true })),
  ]
  const bits = partial.map(({ have }: { have: PieceSet }) => have.bytes)
  return { command: { kind: 'sources', sources }, payload: Buffer.concat(bits) }
}
