import type { Clock } from '../../shared/clock.ts'
import { abortError } from '../../shared/errors.ts'
import type { DecodeAssignment } from '../../shared/protocol/control.ts'
import type { FinishReason, TokenLogprob } from '../../shared/protocol/run-types.ts'
import type { Engine, Kv } from '../engine/engine.ts'
import { logprobsOf, sample } from './sampling.ts'

/** One run at the decode node, once its KV cache is complete (DESIGN section 2, step 8). */
export interface DecodeTask {
  readonly engine: Engine
  readonly assignment: DecodeAssignment
  /** The prompt's last token: its K and V are computed here, so that its logits are known here. */
  readonly lastToken: number
  readonly kv_layers: readonly Kv[]
  readonly onLogits: (logits: Float32Array) => void
  readonly onToken: (index: number, token: number, logprob: TokenLogprob | undefined) => void
  /** Whether the client has all it wants. */
  readonly enough: () => boolean
  readonly clock: Clock
  readonly signal: AbortSignal
  readonly yieldTurn: () => Promise<void>
}

/** Generates until a stop token or the token limit. The stop token itself is reported too. */
export async function decode(task: DecodeTask): Promise<{ reason: FinishReason; computeSeconds: number }> {
  const { assignment, clock } = task
  const { sampling, promptTokens, maxTokens } = assignment
  const started = clock.now()
  let token = task.lastToken
  for (let index = 0; index < maxTokens; index++) {
    const position = promptTokens - 1 + index
    const logits = await step(task, token, position)
    if (index === 0 && assignment.wantLogits) task.onLogits(logits.slice())
    token = sample(logits, sampling, position)
    const logprob = sampling.logprobs === undefined ? undefined : logprobsOf(logits, token, sampling.logprobs)
    task.onToken(index, token, logprob)
    if (assignment.stopTokens.includes(token) || task.enough())
      return { reason: 'stop', computeSeconds: clock.now() - started }
  }
  return { reason: 'length', computeSeconds: clock.now() - started }
}

/** One token through all layers; its K and V join the cache. */
async function step(task: DecodeTask, token: number, position: number): Promise<Float32Array> {
  const { engine } = task
  let x = await engine.embed(Int32Array.of(token))
  for (const [layer, kv] of task.kv_layers.entries()) {
    await task.yieldTurn()
    if (task.signal.aborted) throw abortError(task.signal)
    const q = await engine.project(layer, x, position, kv)
    const acc = engine.accumulator(q)
    await engine.attend(layer, q, kv, acc)
    engine.release(q)
    x = await engine.mix(layer, x, acc)
  }
  const logits = await engine.logits(x)
  engine.release(x)
  return logits
}
