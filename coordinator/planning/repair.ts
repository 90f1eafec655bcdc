/** Who computes what another worker of a run has not finished. Pure. */
import type { WorkerId } from '../../shared/ids.ts'
import { blocksOf, type Span } from '../../shared/plan.ts'
import type { Cost, LayerRange } from '../../shared/protocol/control.ts'
import { spanSeconds } from './cost.ts'

/** Somebody who could. */
export interface Repairer {
  readonly worker: WorkerId
  readonly cost: Cost
  /** Seconds of arithmetic that it has to do first. */
  readonly busySeconds: number
}

export interface RepairPiece {
  readonly worker: WorkerId
  /** In ascending order, of whole KV blocks. */
  readonly spans: readonly Span[]
}

/**
 * Spreads what is missing so that the last one is done as early as possible: for a bound on the time, each repairer in
 * turn (the one that is free first, first) takes as many blocks as it can finish, and the bound is bisected. Later pieces
 * wait for earlier ones layer by layer, as in any chain, so they overlap. `missing` is made of whole KV blocks.
 */
export function planRepair(of: {
  readonly missing: readonly Span[]
  readonly blockTokens: number
  readonly layers: LayerRange
  /** At least one. */
  readonly repairers: readonly Repairer[]
}): RepairPiece[] {
  const blocks = blocksOf(of.missing, of.blockTokens).toSorted((a, b) => a.start - b.start)
  const order = of.repairers.toSorted(
    (x, y) => x.busySeconds - y.busySeconds || x.cost.a - y.cost.a || (x.worker < y.worker ? -1 : 1),
  )
  const alone = order.map((one) => one.busySeconds + blocks.reduce((sum, block) => sum + secondsOf(one, block, of), 0))
  let [least, most] = [0, Math.min(...alone)]
  let best = shares(order, blocks, of, most) ?? [{ worker: order[0]!.worker, blocks }]
  for (let step = 0; step < BISECTIONS; step++) {
    const bound = (least + most) / 2
    const found = shares(order, blocks, of, bound)
    if (found === undefined) least = bound
    else [best, most] = [found, bound]
  }
  return best.map((share) => ({ worker: share.worker, spans: joined(share.blocks, of.blockTokens) }))
}

const BISECTIONS = 30

interface Share {
  readonly worker: WorkerId
  readonly blocks: readonly Span[]
}

/** Undefined if it cannot be done within `bound` seconds. */
function shares(
  order: readonly Repairer[],
  blocks: readonly Span[],
  of: { readonly layers: LayerRange },
  bound: number,
): Share[] | undefined {
  const result: Share[] = []
  let next = 0
  for (const repairer of order) {
    const first = next
    let seconds = repairer.busySeconds
    for (; next < blocks.length; next++) {
      seconds += secondsOf(repairer, blocks[next]!, of)
      if (seconds > bound) break
    }
    if (next > first) result.push({ worker: repairer.worker, blocks: blocks.slice(first, next) })
  }
  return next === blocks.length ? result : undefined
}

const secondsOf = ({ cost }: Repairer, block: Span, { layers }: { readonly layers: LayerRange }): number =>
  layers.to * spanSeconds(cost, block)

/** Blocks as spans that are cut into these very blocks again. */
export function joined(blocks: readonly Span[], blockTokens: number): Span[] {
  const groups: Span[][] = []
  for (const { start, end } of blocks) {
    const last = groups.at(-1)
    if (last !== undefined && isCutAgain([...last, { start, end }], blockTokens)) last.push({ start, end })
    else groups.push([{ start, end }])
  }
  return groups.map(spanOf)
}

function isCutAgain(blocks: readonly Span[], blockTokens: number): boolean {
  const pieces = blocksOf([spanOf(blocks)], blockTokens)
  const isAsBefore = ({ start, end }: Span, i: number): boolean => start === pieces[i]?.start && end === pieces[i]?.end
  return pieces.length === blocks.length && blocks.every(isAsBefore)
}

const spanOf = (blocks: readonly Span[]): Span => ({ start: blocks[0]!.start, end: blocks.at(-1)!.end })
