import type { RunEvent } from '../../coordinator/runs/events.ts'
import { summed } from '../../worker/kv/block.ts'
import type { DeliveredBlock } from '../../worker/prefill/exchange.ts'
import { type Planted, SmallBlockRuns } from './world.ts'

/** Defects that a test puts into the product: each a mistake that somebody could make. */
interface Defect {
  readonly name: string
  /** What it breaks. */
  readonly breaks: RegExp
  readonly plant: () => Planted
}

export const DEFECTS: readonly Defect[] = [
  {
    name: 'a damaged block is taken as it is',
    breaks: /took a wrong block/,
    plant: () => ({ meddle: (block) => summed(block) }),
  },
  {
    name: 'a block of an earlier run is served for one at the same place',
    breaks: /took a wrong block/,
    plant: () => staleBlocks(),
  },
  {
    name: 'the last token is told again when another decode node goes on',
    breaks: /token \d+ instead of \d+/,
    plant: () => ({ Runs: RepeatingRuns }),
  },
  {
    name: 'one block in four is not checked',
    breaks: /from a wrong block/,
    plant: () => ({ selfCheckRate: 0.75 }),
  },
]

function staleBlocks(): Planted {
  const kept = new Map<string, DeliveredBlock>()
  let served = 0
  return {
    meddle: (block) => {
      const place = `${block.layer} ${block.start} ${block.count}`
      const old = kept.get(place)
      if (old === undefined) kept.set(place, { ...block, bytes: block.bytes.slice() })
      return old === undefined || ++served % 500 !== 0 ? block : { ...block, bytes: old.bytes, crc32: old.crc32 }
    },
  }
}

class RepeatingRuns extends SmallBlockRuns {
  override async *run(...of: Parameters<SmallBlockRuns['run']>): AsyncGenerator<RunEvent, void> {
    let last: RunEvent | undefined
    for await (const event of super.run(...of)) {
      yield event
      if (event.kind === 'token') last = event
      if (event.kind === 'failed_over' && last !== undefined) yield last
    }
  }
}
