import type { Wire } from '../../shared/plan.ts'
import type { PrefillAssignment } from '../../shared/protocol/control.ts'
import type { Use } from './exchange.ts'
import { routesOf } from './routes.ts'

/** A precision that a worker's own blocks are encoded in, and for whom. */
export interface Encoding {
  readonly wire: Wire
  readonly uses: readonly Use[]
}

/**
 * How the worker of an assignment encodes its own blocks of `layer`: once for the next worker, who waits for them, and
 * once for the decode node; only once where both get the same. The last layer's KV is needed by nobody but the decode
 * node, and neither is any of a worker without a next one. Layers below those of the assignment are there already.
 */
export function encodingsOf(a: PrefillAssignment, layer: number, layers: number): readonly Encoding[] {
  if (layer < a.layers.from) return []
  const { prefixWire, handoffWire } = a.workers[a.rank]!
  if (routesOf(a).target(a) === undefined || layer === layers - 1) return [{ wire: handoffWire, uses: ['handoff'] }]
  if (prefixWire === handoffWire) return [{ wire: prefixWire, uses: ['prefix', 'handoff'] }]
  return [
    { wire: prefixWire, uses: ['prefix'] },
    { wire: handoffWire, uses: ['handoff'] },
  ]
}
