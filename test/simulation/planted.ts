import type { RunEvent } from '../../coordinator/runs/events.ts'
import { HeadraceError } from '../../shared/errors.ts'
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
    name: 'an answer that was lost begins again, though some of it was told',
    breaks: /token 0 instead of/,
    plant: () => ({ Runs: ForgetfulRuns }),
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

class ForgetfulRuns extends SmallBlockRuns {
  override async *run(...[request, signal]: Parameters<SmallBlockRuns['run']>): AsyncGenerator<RunEvent, void> {
    try {
      yield* super.run(request, signal)
    } catch (thrown) {
      if (signal.aborted || !(thrown instanceof HeadraceError) || thrown.code !== 'worker_lost') throw thrown
      for await (const event of super.run(request, signal)) if (event.kind !== 'planned') yield event
    }
  }
}
