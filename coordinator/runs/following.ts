import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { type Plan, spanTokens } from '../../shared/plan.ts'
import type { FinishReason, WorkerReport } from '../../shared/protocol/run-types.ts'
import { AttemptFailed } from './attempt.ts'
import type { Repair, RunEvent, RunRequest } from './events.ts'
import type { WorkerNews } from './news.ts'

/** Turns what workers say into what a client hears, whatever happens to workers on the way, and adds up the report. */
export class Following {
  reason: FinishReason = 'length'
  /** Of all attempts. */
  readonly tokens: number[] = []
  readonly repairs: Repair[] = []
  readonly #request: RunRequest
  readonly #clock: Clock
  readonly #arrived: number
  readonly #reports: WorkerReport[] = []
  #plan: Plan | undefined
  #tokensOf: ReadonlyMap<string, number> = new Map()
  /** Tokens told when the attempt began. */
  #before = 0
  #layerTokens = 0
  #processed = 0
  #firstToken: number | undefined
  #lastToken = 0

  constructor(request: RunRequest, clock: Clock, arrived: number) {
    this.#request = request
    this.#clock = clock
    this.#arrived = arrived
  }

  /** A plan is sent out. */
  begin(plan: Plan): void {
    this.#plan = plan
    this.#before = this.tokens.length
    this.#layerTokens = 0
    this.#tokensOf = new Map<string, number>([
      ...plan.workers.map(({ worker, spans }) => [worker, spanTokens(spans)] as const),
      [plan.decode, plan.promptTokens - plan.prefillTokens],
    ])
  }

  /** What is left to do: the answer so far has become part of the prompt. A draw depends on seed and position alone. */
  remaining(): RunRequest {
    const told = this.tokens.length
    if (told === 0) return this.#request
    const { promptTokens, maxTokens } = this.#request
    const longer = new Int32Array(promptTokens.length + told)
    longer.set(promptTokens)
    longer.set(this.tokens, promptTokens.length)
    return { ...this.#request, promptTokens: longer, maxTokens: maxTokens - told, wantLogits: false }
  }

  /** Whether all of the answer has been told, whatever becomes of those who computed it. */
  get complete(): boolean {
    const { maxTokens, stopTokens, enough } = this.#request
    const last = this.tokens.at(-1)
    if (last === undefined) return false
    const stopped = stopTokens.includes(last) || enough?.aborted === true
    this.reason = stopped ? 'stop' : 'length'
    return stopped || this.tokens.length === maxTokens
  }

  repaired({ worker, code, tokens, at }: Repair): void {
    this.repairs.push({ worker, code, tokens, at: at - this.#arrived })
  }

  /** @param layers of the model */
  event({ worker, event, payload }: WorkerNews, layers: number): RunEvent | undefined {
    const seconds = this.#clock.now() - this.#arrived
    switch (event.kind) {
      case 'layer_finished':
        return this.#progress(worker, layers, seconds)
      case 'kv_assembled':
        return this.tokens.length === 0 ? { kind: 'prefilled', seconds } : undefined
      case 'logits_computed':
        return { kind: 'logits', logits: new Float32Array(payload.slice().buffer) }
      case 'token_sampled': {
        const { token, logprob } = event
        const index = this.#before + event.index
        if (index < this.tokens.length) return undefined // told before
        if (index > this.tokens.length)
          throw new AttemptFailed(worker, new HeadraceError('unexpected_message', `${worker} leaves out a token`))
        this.tokens.push(token)
        this.#firstToken ??= seconds
        this.#lastToken = seconds
        return { kind: 'token', index, token, ...(logprob && { logprob }) }
      }
      case 'finished':
        this.#reports.push(event.report)
        if (event.reason !== undefined) this.reason = event.reason
        return undefined
      default:
        return undefined
    }
  }

  /** What is computed again does not count twice, so it may stand still for a while, but never goes back. */
  #progress(worker: string, layers: number, seconds: number): RunEvent | undefined {
    const total = this.#request.promptTokens.length
    this.#layerTokens += this.#tokensOf.get(worker) ?? 0
    const processed = Math.min(total, Math.floor(this.#layerTokens / layers))
    if (processed < this.#processed || this.tokens.length > 0) return undefined
    this.#processed = processed
    return { kind: 'progress', processed, total, seconds }
  }

  totals() {
    const ttftSeconds = this.#firstToken ?? 0
    return {
      ttftSeconds,
      decodeSeconds: this.#lastToken - ttftSeconds,
      promptTokens: this.#request.promptTokens.length,
      completionTokens: this.tokens.length,
      workers: this.#reports,
      repairs: this.repairs,
    }
  }

  get plan(): Plan {
    return this.#plan!
  }
}
