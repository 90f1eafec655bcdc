import type { DecodeAssignment } from '../../shared/protocol/control.ts'
import type { FinishReason, TokenLogprob } from '../../shared/protocol/run-types.ts'
import type { Turn } from '../compute/turns.ts'
import type { Engine, Kv } from '../engine/engine.ts'
import { logprobsOf, sample } from './sampling.ts'

/** One run at the decode node, once its prompt is computed (DESIGN section 2, step 8). */
export interface DecodeTask {
  readonly engine: Engine
  readonly assignment: DecodeAssignment
  /** Of the prompt's last position. */
  readonly firstLogits: Float32Array
  readonly kv_layers: readonly Kv[]
  readonly onLogits: (logits: Float32Array) => void
  readonly onToken: (index: number, token: number, logprob: TokenLogprob | undefined) => void
  /** Whether the client has all it wants. */
  readonly enough: () => boolean
  readonly turn: Turn
}

/** Generates until a stop token or the token limit. The stop token itself is reported too. */
export async function decode(task: DecodeTask): Promise<FinishReason> {
  const { assignment } = task
  const { sampling, promptTokens, maxTokens } = assignment
  let logits = task.firstLogits
  if (assignment.wantLogits) task.onLogits(logits.slice())
  for (let index = 0; ; index++) {
    const position = promptTokens - 1 + index
    const token = sample(logits, sampling, position)
    const logprob = sampling.logprobs === undefined ? undefined : logprobsOf(logits, token, sampling.logprobs)
    task.onToken(index, token, logprob)
    if (assignment.stopTokens.includes(token) || task.enough()) return 'stop'
    if (index + 1 === maxTokens) return 'length'
    logits = await step(task, token, position + 1)
  }
}

/** One token through all layers; its K and V join the cache. */
async function step(task: DecodeTask, token: number, position: number): Promise<Float32Array> {
  const { engine, turn } = task
  await turn.take()
  const x = await engine.step(await engine.embed(Int32Array.of(token)), position, task.kv_layers, () => turn.take())
  const logits = await engine.logits(x)
  engine.release(x)
  return logits
}
