import type { Engine, Hidden } from '../../worker/engine/engine.ts'

/** The engine of a worker that does something else in `mix`, given what it would have done honestly, as any layer. */
export function lyingEngine(
  engine: Engine,
  mix: (layer: number, honestly: (layer: number) => Promise<Hidden>, x: Hidden) => Promise<Hidden>,
): Engine {
  return new Proxy(engine, {
    get: (target, key) => {
      if (key === 'mix')
        return (...[layer, x, acc]: Parameters<Engine['mix']>) => mix(layer, (as) => target.mix(as, x, acc), x)
      const value = target[key as keyof Engine]
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}
