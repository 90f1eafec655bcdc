import { abortError } from '../../shared/errors.ts'
import { asRunId, asWorkerId, type RunId, type WorkerId } from '../../shared/ids.ts'
import { kvBytesPerTokenLayer, type ModelShape } from '../../shared/model-shape.ts'
import { type Plan, spanTokens } from '../../shared/plan.ts'
import { othersOf, prefillBytes } from '../../shared/prefill-memory.ts'
import type { Registry } from '../cluster/registry.ts'
import { readyPrefill } from '../cluster/state.ts'
import type { Part } from './parts.ts'

/** A plan whose workers are busy with the run until `leave` is called: for one of them or for all. */
export interface Occupied {
  readonly plan: Plan
  /** Of the workers that are ready. */
  readonly part: number
  readonly leave: (worker?: string) => void
}

/** Who is busy with which run and how much memory that takes there; and where a run waits that found no room. */
export class Occupancy {
  readonly #registry: Registry
  readonly #shape: ModelShape
  readonly #waiting = new Set<() => void>()

  constructor(registry: Registry, shape: ModelShape) {
    this.#registry = registry
    this.#shape = shape
  }

  /** Whether any run has memory of any worker. */
  get any(): boolean {
    return this.#registry.state.workers.some(({ reserved }) => reserved.size > 0)
  }

  occupy(run: RunId, plan: Plan, maxTokens: number): Occupied {
    const shape = this.#shape
    const { decode, promptTokens, prefillTokens, strategy } = plan
    const leave = new Map<string, () => void>()
    for (const { worker, spans } of plan.workers) {
      const part = { own: spanTokens(spans), others: othersOf(strategy, spans, prefillTokens) }
      leave.set(worker, this.#assign(worker, run, prefillBytes(shape, part)))
    }
    const kvBytes = shape.layers * kvBytesPerTokenLayer(shape) * (promptTokens + maxTokens)
    leave.set(decode, this.#assign(decode, run, kvBytes))
    const ready = readyPrefill(this.#registry.state).length
    return {
      plan,
      part: Math.min(1, Math.max(1, plan.workers.length) / Math.max(1, ready)),
      leave: (one) => {
        for (const [worker, end] of leave) if (one === undefined || one === worker) end()
      },
    }
  }

  /** Who makes up for another one meets all that is before its own last position. Returns what ends it. */
  occupyPart({ id, by }: Part): () => void {
    const own = spanTokens(by.spans)
    const others = (by.spans.at(-1)?.end ?? own) - own
    return this.#assign(asWorkerId(by.worker), asRunId(id), prefillBytes(this.#shape, { own, others }))
  }

  /** Resolves when a worker has become ready, or has less to do; rejects with the signal's coded error. */
  changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const end = (): void => {
        forget()
        this.#waiting.delete(onChange)
        signal.removeEventListener('abort', onAbort)
      }
      const onChange = (): void => {
        end()
        resolve()
      }
      const onAbort = (): void => {
        end()
        reject(abortError(signal))
      }
      const forget = this.#registry.onReady(onChange)
      this.#waiting.add(onChange)
      if (signal.aborted) onAbort()
      else signal.addEventListener('abort', onAbort, { once: true })
    })
  }

  #assign(worker: WorkerId, run: RunId, kvBytes: number): () => void {
    const registry = this.#registry
    registry.apply({ kind: 'run_assigned', worker, run, kvBytes })
    return () => {
      registry.apply({ kind: 'run_released', worker, run })
      for (const wake of this.#waiting) wake()
    }
  }
}
