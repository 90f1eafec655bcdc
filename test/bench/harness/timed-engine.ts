import type { Engine } from '../../../worker/engine/engine.ts'
import { CALLS, type Call, type PerCall } from './flops.ts'

/** Where an engine's time goes: the same engine, and the seconds of each kind of call since `reset`. */
export interface TimedEngine {
  readonly engine: Engine
  reset(): void
  spent(): PerCall
}

export function timedEngine(engine: Engine, now: () => number = () => performance.now() / 1000): TimedEngine {
  const nothing = (): Record<Call, number> => ({ project: 0, attend: 0, mix: 0, step: 0, logits: 0 })
  let seconds = nothing()
  const proxy = new Proxy(engine, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      const call = CALLS.find((kind) => kind === name)
      if (call === undefined) return value.bind(target)
      return async (...args: unknown[]): Promise<unknown> => {
        const started = now()
        try {
          return await value.apply(target, args)
        } finally {
          seconds[call] += now() - started
        }
      }
    },
  })
  return {
    engine: proxy,
    reset() {
      seconds = nothing()
    },
    spent: () => ({ ...seconds }),
  }
}
