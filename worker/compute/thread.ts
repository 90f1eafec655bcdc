import { parentPort, workerData } from 'node:worker_threads'
import { realClock } from '../../shared/link/real-clock.ts'
import { createEngine } from '../engine/create-engine.ts'
import { collectGarbage } from '../idle.ts'
import { movingCost } from '../peers/moving-cost.ts'
import { ComputeHost } from './host.ts'
import type { ComputeCommand, ComputeConfig, ComputeReply } from './messages.ts'
import { readCpu } from './moving.ts'
import { plainError } from './plain-error.ts'

/** The compute thread of a worker process: loads the model, then serves commands until the process ends. */
const port = parentPort
if (port === null) throw new Error('this file is started as a thread')
const post = (reply: ComputeReply, transfer: ArrayBuffer[] = []): void => port.postMessage(reply, transfer)
const { modelFolder, engine: name, threads, weights, device, decodes, kvBudgetBytes } = workerData as ComputeConfig

try {
  const engine = await createEngine(name, modelFolder, {
    threads,
    ...(weights && { weights }),
    device,
    decodes,
    head: decodes,
    notice: (text) => post({ kind: 'notice', text }),
  })
  const yieldTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  const host = new ComputeHost({
    engine,
    clock: realClock,
    readCpu,
    movingCost: () => movingCost(realClock, { threads, shape: engine.shape }),
    kvBudgetBytes,
    post,
    yieldTurn,
    collectGarbage,
  })
  port.on('message', (command: ComputeCommand) => {
    if (command.kind === 'end') {
      host.close()
      process.exit()
    }
    host.handle(command)
  })
  post({ kind: 'loaded', shape: engine.shape, f16: engine.f16 === true })
} catch (thrown) {
  post({ kind: 'error', ...plainError(thrown) })
}
