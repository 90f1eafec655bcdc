import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Program, wholeNumber } from '../../shared/cli/options.ts'
import { aborted, reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { DEVICES, ENGINES, WEIGHTS } from '../../shared/engine-name.ts'
import { abortError } from '../../shared/errors.ts'
import { defaultCache, resolveModel } from '../../shared/model-store/resolve.ts'
import { WIRES } from '../../shared/plan.ts'
import { STRATEGY_CHOICES } from './coordinator-command.ts'
import { type EdgeArgs, edgeFlags, withEdgeOptions } from './edge-options.ts'
import { startLocalCluster } from './local-cluster.ts'

/** The model that comes with the project. */
export const BUNDLED_MODEL = fileURLToPath(new URL('../../../deploy/model/logbook-7m', import.meta.url))

/** `headrace up`. */
export const upCommand = (program: Program): Program =>
  program.command(
    'up',
    'Run a whole cluster on this machine: coordinator, prefill workers, decode node',
    (args) =>
      withEdgeOptions(args)
        .option('model', {
          type: 'string',
          default: BUNDLED_MODEL,
          defaultDescription: 'bundled',
          describe: 'Hugging Face folder, GGUF file (of several, the first), or ORG/NAME as pulled',
        })
        .option('cache', {
          type: 'string',
          describe: "Where pulled models are kept [default: the user's cache folder]",
        })
        .option('name', { type: 'string', describe: 'Model name for clients [default: that of the model]' })
        .option('workers', { type: 'number', default: 2, describe: 'Prefill workers' })
        .option('decode-nodes', { type: 'number', default: 1, describe: 'Decode nodes' })
        .option('port', { type: 'number', default: 8080, describe: 'Port of the API; 0 takes a free one' })
        .option('strategy', {
          choices: STRATEGY_CHOICES,
          default: 'auto' as const,
          describe: 'For requests that ask for none',
        })
        .option('wire', {
          choices: WIRES,
          default: 'f16' as const,
          describe: 'Narrowest precision that KV may have between machines',
        })
        .option('engine', { choices: ENGINES, default: 'onnx' as const, describe: 'What does the arithmetic' })
        .option('device', {
          choices: DEVICES,
          default: 'cpu' as const,
          describe: 'Where the onnx engine computes; auto: on a GPU if there is one',
        })
        .option('weights', {
          choices: WEIGHTS,
          default: 'f32' as const,
          describe: 'How weights are kept and computed with',
        })
        .option('threads', { type: 'number', describe: 'Threads of each worker [default: cores / workers]' })
        .option('pin', { type: 'boolean', default: false, describe: 'Each worker on one core of its own, one thread' })
        .default('log-level', 'warn'),
    (args) => run(args).catch((thrown: unknown) => reportFatal(thrown)),
  )

interface UpArgs extends EdgeArgs {
  model: string
  cache?: string | undefined
  name?: string | undefined
  workers: number
  decodeNodes: number
  port: number
  strategy: string
  wire: string
  engine: string
  weights: string
  device: string
  threads?: number | undefined
  pin: boolean
  logLevel: string
}

async function run(args: UpArgs): Promise<void> {
  const stopped = stopSignal()
  const cache = resolve(args.cache ?? defaultCache())
  const model = await resolveModel(args.model, cache)
  const { url, group } = await startLocalCluster(
    {
      ...args,
      cache,
      model,
      name: args.name ?? (model === args.model ? undefined : args.model),
      threads: args.threads,
      coordinatorFlags: edgeFlags(args),
      workers: wholeNumber('workers', args.workers, 1, 64),
      decodeNodes: wholeNumber('decode-nodes', args.decodeNodes, 1, 16),
      port: wholeNumber('port', args.port, 0, 65535),
    },
    stopped,
  )
  group.keep((what) => process.stderr.write(`headrace: ${what}\n`))
  process.stdout.write(`${url}\n`)
  try {
    await Promise.race([aborted(stopped), aborted(group.failed)])
  } finally {
    await group.stop()
  }
  if (group.failed.aborted) throw abortError(group.failed)
}
