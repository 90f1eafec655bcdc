import type { Cost } from '../../shared/protocol/control.ts'
import { type Compute, type ComputeRun, type OnEvent, RunningRun } from '../../worker/compute/compute.ts'
import { ComputeHost } from '../../worker/compute/host.ts'
import type { ComputeEvent, ComputeReply, RunCommand } from '../../worker/compute/messages.ts'
import { isIntact, summed } from '../../worker/kv/block.ts'
import type { DeliveredBlock, ReceivedBlock } from '../../worker/prefill/exchange.ts'
import type { SimProcess } from './timeline.ts'
import { type ToyEngine, toyLie } from './toy-model.ts'

/** Between two threads. */
const HOP_SECONDS = 20e-6
const CALIBRATION_SECONDS = 0.2

export interface ToyComputeOptions {
  readonly engine: ToyEngine
  readonly process: SimProcess
  readonly cost: Cost
  readonly kvBudgetBytes: number
  /** Called with every block that is handed to a run whose checksum is right. */
  readonly onBlock: (run: string, decodes: boolean, block: ReceivedBlock) => void
  /** Called before a token is told. */
  readonly onToken: (run: string) => void
  /** Called when this worker has lied to a run. */
  readonly onLie: (run: string) => void
  /** The layer of which it tells its neighbour something else than the decode node. */
  readonly twoFacedIn: () => number | undefined
  readonly violated: (what: string) => void
  /** A defect on purpose: what the run gets instead. */
  readonly meddle?: ((block: DeliveredBlock) => DeliveredBlock) | undefined
}

/** Layers above the finished ones of which blocks may come to a prefill. */
const WINDOW_LAYERS = 3

/** The compute thread without a thread: the product's host of runs over the toy engine, in virtual time. */
export function toyCompute(of: ToyComputeOptions): { readonly compute: Compute; readonly host: ComputeHost } {
  const { engine, process, cost, kvBudgetBytes, ...told } = of
  const runs = new Map<string, RunningRun>()
  /** Layers that each prefill has finished. */
  const finished = new Map<string, number>()
  let onKept: (names: readonly string[]) => void = () => undefined
  engine.onLie = () => {
    for (const run of finished.keys()) told.onLie(run)
  }
  const host = new ComputeHost({
    engine,
    clock: process.clock,
    readCpu: () => undefined,
    movingCost: async () => 0,
    kvBudgetBytes,
    post: (reply: ComputeReply) => {
      if (reply.kind === 'kept') process.after(HOP_SECONDS, () => onKept(reply.names))
      if (reply.kind !== 'run') return
      const { run, event } = reply
      if (event.kind === 'token') told.onToken(run)
      process.after(HOP_SECONDS, () => {
        const running = runs.get(run)
        if (event.kind === 'released' && finished.has(run)) finished.set(run, event.layer + 1)
        if (event.kind === 'finished' || event.kind === 'failed') {
          runs.delete(run)
          finished.delete(run)
        }
        for (const said of faces(run, event)) running?.handle(said)
      })
    },
    collectGarbage: () => undefined,
    yieldTurn: () => new Promise((resolve) => process.after(0, resolve)),
  })
  const faces = (run: string, event: ComputeEvent): readonly ComputeEvent[] => {
    if (event.kind !== 'published' || event.uses.length < 2 || event.block.layer !== told.twoFacedIn()) return [event]
    const lie = summed({ ...event.block, bytes: toyLie(event.block.bytes) })
    told.onLie(run)
    return [
      { ...event, block: lie, uses: ['prefix'] },
      { ...event, uses: ['handoff'] },
    ]
  }
  const tell = (command: RunCommand): void => {
    process.after(HOP_SECONDS, () => {
      if (command.kind === 'deliver') {
        const block = told.meddle?.(command.block) ?? command.block
        if (isIntact(block)) told.onBlock(command.run, !finished.has(command.run), block)
        host.handle({ ...command, block })
      } else host.handle(command)
      const bytes = host.held.kvBytes + host.held.kept.bytes
      if (bytes > kvBudgetBytes) told.violated(`caches of ${bytes} bytes in ${kvBudgetBytes}`)
    })
  }
  const open = (run: string, onEvent: OnEvent): ComputeRun => {
    const running = new RunningRun(onEvent)
    runs.set(run, running)
    return {
      deliver: (block, onUsed) => {
        const done = finished.get(run)
        if (done !== undefined && block.layer >= done + WINDOW_LAYERS)
          told.violated(`layer ${block.layer} came to ${run}, which has finished ${done} layers`)
        tell({ kind: 'deliver', run, block: running.lend(block, onUsed) })
      },
      fetch: (wanted, wire, onFetched) => tell({ kind: 'fetch', run, id: running.await(onFetched), wanted, wire }),
      stop: () => tell({ kind: 'stop', run }),
      cancel: () => tell({ kind: 'cancel', run }),
    }
  }
  const compute: Compute = {
    shape: engine.shape,
    calibrate: async () => {
      await process.compute(CALIBRATION_SECONDS)
      return cost
    },
    prefill: (assignment, tokens, onEvent) => {
      const run = open(assignment.run, onEvent)
      finished.set(assignment.run, 0)
      tell({ kind: 'prefill', assignment, tokens })
      return run
    },
    decode: (assignment, tokens, onEvent) => {
      const run = open(assignment.run, onEvent)
      tell({ kind: 'decode', assignment, tokens })
      return run
    },
    watchKept: (listener) => {
      onKept = listener
    },
    failed: new AbortController().signal,
    close: () => engine.close(),
  }
  return { compute, host }
}
