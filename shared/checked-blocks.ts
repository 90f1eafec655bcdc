import { HeadraceError } from './errors.ts'
import { blocksOf, type Span } from './plan.ts'
import type { BlockCheck, RunWorker } from './protocol/control.ts'

/** A block that is to be computed again; see `BlockCheck`. */
export interface CheckedBlock extends Span {
  readonly worker: string
  readonly first: number
  readonly deeper: number
}

/**
 * The blocks that `checks` name by where they begin, in ascending order: that of their tokens in an assignment. Throws
 * `frame_bad_schema` if a worker makes no block there.
 */
export function checkedBlocks(
  makers: readonly Pick<RunWorker, 'worker' | 'spans'>[],
  blockTokens: number,
  checks: readonly BlockCheck[],
): CheckedBlock[] {
  const blocks = checks.flatMap(({ worker, starts, first, deeper }) => {
    const spans = makers.find((maker) => maker.worker === worker)?.spans ?? []
    const made = new Map(blocksOf(spans, blockTokens).map((block) => [block.start, block]))
    return starts.map((start) => {
      const block = made.get(start)
      if (block === undefined) throw new HeadraceError('frame_bad_schema', `${worker} makes no block at ${start}`)
      return { ...block, worker, first, deeper }
    })
  })
  return blocks.sort((a, b) => a.start - b.start)
}
