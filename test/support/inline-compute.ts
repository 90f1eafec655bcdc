import { realClock } from '../../shared/link/real-clock.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import { type Compute, type ComputeRun, type OnEvent, RunningRun } from '../../worker/compute/compute.ts'
import { ComputeHost } from '../../worker/compute/host.ts'
import type { ComputeEvent, ComputeReply, RunCommand } from '../../worker/compute/messages.ts'
import type { Engine } from '../../worker/engine/engine.ts'

/**
 * The compute thread without a thread: the same host on the same event loop, behind the same border (messages are cloned,
 * buffers transferred). `meddle` may change or drop what crosses it.
 */
export function inlineCompute(
  engine: Engine,
  cost: Cost,
  meddle: (event: ComputeEvent) => ComputeEvent = (e) => e,
  kvBudgetBytes = 2 ** 30,
): Compute {
  const runs = new Map<string, RunningRun>()
  let onKept: (names: readonly string[]) => void = () => undefined
  const host = new ComputeHost({
    engine,
    clock: realClock,
    readCpu: () => undefined,
    movingCost: async () => 0,
    kvBudgetBytes,
    post: (reply: ComputeReply, transfer: ArrayBuffer[] = []) => {
      if (reply.kind === 'kept') setImmediate(() => onKept(reply.names))
      if (reply.kind !== 'run') return
      const event = meddle(structuredClone(reply.event, { transfer }))
      setImmediate(() => runs.get(reply.run)?.handle(event))
    },
    collectGarbage: () => undefined,
    yieldTurn: () => new Promise((resolve) => setImmediate(resolve)),
  })
  const tell = (command: RunCommand, transfer: ArrayBuffer[] = []): void => {
    const cloned = structuredClone(command, { transfer })
    setImmediate(() => host.handle(cloned))
  }
  const open = (run: string, onEvent: OnEvent): ComputeRun => {
    const running = new RunningRun(onEvent)
    runs.set(run, running)
    return {
      deliver: (block, onUsed) => tell({ kind: 'deliver', run, block: running.lend(block, onUsed) }),
      fetch: (wanted, wire, onBlock) => tell({ kind: 'fetch', run, id: running.await(onBlock), wanted, wire }),
      stop: () => tell({ kind: 'stop', run }),
      cancel: () => tell({ kind: 'cancel', run }),
    }
  }
  return {
    shape: engine.shape,
    calibrate: async () => cost,
    prefill: (assignment, tokens, onEvent) => {
      const run = open(assignment.run, onEvent)
      tell({ kind: 'prefill', assignment, tokens }, [tokens.buffer])
      return run
    },
    decode: (assignment, tokens, onEvent) => {
      const run = open(assignment.run, onEvent)
      tell({ kind: 'decode', assignment, tokens }, [tokens.buffer])
      return run
    },
    watchKept: (listener) => {
      onKept = listener
    },
    failed: new AbortController().signal,
    close: () => {
      host.close()
      return engine.close()
    },
  }
}
