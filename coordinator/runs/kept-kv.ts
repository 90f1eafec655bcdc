import { createHash } from 'node:crypto'
import type { Plan } from '../../shared/plan.ts'
import { type ClusterState, readyDecode } from '../cluster/state.ts'
import type { RunRequest } from './events.ts'

/**
 * A decode node keeps the KV of a prompt for a while after the run, whatever became of that, if the request may come again
 * (`keepUnder`). When the coordinator is started anew it knows nothing of runs before, but decode nodes tell the names of
 * what they keep, and the same request has the same name again. Pure.
 *
 * Only KV of whole prompts is kept: who has part of it would have to compute the hidden states of all tokens once more to
 * go on from there, and that is all of the work.
 */

type Repeated = Pick<RunRequest, 'keepUnder' | 'promptTokens' | 'maxTokens'>

/** Of who asks, the prompt and the room for its answer; nothing if the request is not to come again. */
export function keptName({ keepUnder, promptTokens, maxTokens }: Repeated): string | undefined {
  if (keepUnder === undefined) return undefined
  const { buffer, byteOffset, byteLength } = promptTokens
  return createHash('sha256')
    .update(`${keepUnder}\n${maxTokens}\n`)
    .update(new Uint8Array(buffer, byteOffset, byteLength))
    .digest('hex')
}

/**
 * A plan that computes nothing, if a decode node has kept the prompt's KV.
 * @param edgeSeconds before the first arithmetic of a run and after the last
 */
export function resumption(request: Repeated, state: ClusterState, edgeSeconds: number): Plan | undefined {
  const name = keptName(request)
  const node = name === undefined ? undefined : readyDecode(state).find(({ kept }) => kept.includes(name))
  if (node === undefined) return undefined
  const { length } = request.promptTokens
  return {
    strategy: 'solo',
    promptTokens: length,
    prefillTokens: length,
    workers: [],
    decode: node.id,
    blockTokens: length,
    predictedTtftSeconds: edgeSeconds,
    bound: 'latency',
    boundBy: `${node.id} has kept the prompt's KV`,
  }
}
