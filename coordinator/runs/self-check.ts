import type { Random } from '../../shared/clock.ts'
import { asWorkerId } from '../../shared/ids.ts'
import type { Log } from '../../shared/log.ts'
import { blocksOf, type Plan, WIRES, type Wire } from '../../shared/plan.ts'
import type { Precision } from '../../shared/precision.ts'
import type { BlockCheck, Checked } from '../../shared/protocol/control.ts'
import type { ClusterEvent } from '../cluster/state.ts'
import type { CoordinatorMetrics } from '../metrics.ts'

/**
 * Which KV blocks of a run the decode node computes again, drawn in secret when the run is assigned: a worker that cheats
 * on a fraction f of its blocks is found within n of them with probability 1 - (1 - f rate)^n. Pure.
 *
 * A block of a worker is drawn with probability `rate`, in all its layers. What the decode node computes itself, nobody
 * checks: it could lie about the answer as well.
 */
export function drawChecks(
  plan: Plan,
  rate: number,
  precisionOf: (worker: string) => Precision,
  random: Random,
): BlockCheck[] {
  const wire = narrowest(plan)
  const checker = precisionOf(plan.decode)
  return plan.workers.flatMap(({ worker, spans }): BlockCheck[] => {
    const drawn = blocksOf(spans, plan.blockTokens).filter(() => random() < rate)
    const starts = drawn.map(({ start }) => start)
    return starts.length === 0 ? [] : [{ worker, starts, ...tolerances(wire, precisionOf(worker), checker) }]
  })
}

/** Of any block that the decode node gets: a check attends to blocks of other workers too. */
const narrowest = ({ workers }: Plan): Wire =>
  WIRES[
    Math.max(
      0,
      ...workers.flatMap(({ prefixWire, handoffWire }) => [prefixWire, handoffWire].map((w) => WIRES.indexOf(w))),
    )
  ]!

/** Four to nine times what honest pairs of engines reach in the first layer and in any other; see `worker/decode/self-check.ts`. */
export function tolerances(wire: Wire, maker: Precision, checker: Precision): Pick<BlockCheck, 'first' | 'deeper'> {
  const mixed = maker === checker ? 0 : Math.max(MIXED[maker], MIXED[checker])
  const rounded = ROUNDED.has(maker) || ROUNDED.has(checker)
  return {
    first: Math.max(BY_WIRE[wire], rounded ? ROUNDED_FIRST : 0, mixed),
    deeper: Math.max(BY_WIRE[wire], rounded ? ROUNDED_DEEPER : 0, mixed),
  }
}

const BY_WIRE: Readonly<Record<Wire, number>> = { f32: 1e-4, f16: 3e-3, int8: 5e-2 }

/** Products of rounded numbers: where two sums differ in their last bit, roundings that follow may fall otherwise. */
const ROUNDED: ReadonlySet<Precision> = new Set(['f16', 'int8', 'int4'])
const ROUNDED_FIRST = 2e-2
const ROUNDED_DEEPER = 0.1

/** Between two classes of precision: what the coarser one rounds off. */
const MIXED: Readonly<Record<Precision, number>> = { f32: 0, bf16: 5e-2, f16: 5e-2, int8: 0.25, int4: 1 }

/** Counts what decode nodes find, and puts who made a block wrongly into quarantine. */
export function heedChecks(of: {
  readonly layers: number
  readonly apply: (event: ClusterEvent) => void
  readonly metrics: Pick<CoordinatorMetrics, 'selfChecks'>
  readonly log: Log
}): (checked: Checked) => void {
  return ({ run, worker, layer, start, count, wrong }) => {
    const { layers, apply, metrics, log } = of
    if (wrong === undefined) {
      if (layer === layers - 1) metrics.selfChecks.inc({ result: 'passed' })
      return
    }
    metrics.selfChecks.inc({ result: 'failed' })
    apply({ kind: 'worker_quarantined', worker: asWorkerId(worker) })
    const found = { run, worker, layer, start, count, ...wrong }
    log.error(found, `${worker} lies or computes wrongly: it gets no more runs until this coordinator is started anew`)
  }
}
