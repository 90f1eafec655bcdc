import { isIP } from 'node:net'
import { resolve } from 'node:path'
import {
  checkHost,
  modelOptions,
  PLAINTEXT_OPTIONS,
  type Program,
  shareOf,
  wholeNumber,
} from '../../shared/cli/options.ts'
import { aborted, reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { createLog } from '../../shared/log.ts'
import { defaultCache, resolveModel } from '../../shared/model-store/resolve.ts'
import { STRATEGIES, type Strategy, WIRES } from '../../shared/plan.ts'
import { PRECISIONS, type Precision } from '../../shared/precision.ts'
import { startCoordinator } from '../coordinator.ts'
import type { OpenAuthority } from '../security/authority.ts'
import {
  type AccessArgs,
  type EdgeArgs,
  edgeConfig,
  queueLimits,
  withAccessOptions,
  withEdgeOptions,
} from './edge-options.ts'

export const STRATEGY_CHOICES = ['auto', ...STRATEGIES] as const

/** `headrace coordinator`. */
export const coordinatorCommand = (program: Program): Program =>
  program.command(
    'coordinator',
    'Serve the HTTP API and split prompts over the workers that join',
    (args) =>
      modelOptions(withAccessOptions(withEdgeOptions(args)), { demandOption: true })
        .option('name', { type: 'string', describe: 'Model name for clients [default: that of the model]' })
        .option('host', { type: 'string', default: '127.0.0.1', describe: 'Where to listen' })
        .option('port', {
          type: 'number',
          default: 8080,
          describe: 'Port of the API and of the workers; 0 takes a free one',
        })
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
        .option('cluster', {
          type: 'string',
          describe: 'Folder that `headrace init` has made: TLS for the API and the links, and workers join with tokens',
        })
        .option('certificate-hours', {
          type: 'number',
          default: 24,
          describe: "Life of workers' certificates; a worker that is off for longer needs a new token",
        })
        .option('tls-name', {
          type: 'string',
          array: true,
          default: [] as string[],
          describe: 'Another name or address under which HTTP clients reach the coordinator',
        })
        .options(PLAINTEXT_OPTIONS)
        .option('precision', {
          choices: PRECISIONS,
          describe: "What workers must compute in [default: the first worker's]",
        })
        .option('allow-mixed-precision', {
          type: 'boolean',
          default: false,
          describe: 'Admit workers of another precision; answers then say who computed in what',
        })
        .option('expect-workers', {
          type: 'number',
          default: 0,
          describe:
            'Workers and decode nodes that are about to start: none is timed while another one of its machine loads',
        })
        .option('self-check', {
          type: 'number',
          default: 0,
          describe:
            'Share of KV blocks (0 to 1) that decode nodes compute again, to find workers that lie or miscompute',
        })
        .option('body-limit-mib', { type: 'number', default: 32, describe: 'Largest request body' })
        .option('ping-seconds', {
          type: 'number',
          default: 15,
          describe: 'Silence after which a stream gets a comment',
        }),
    (args) => run(args).catch((thrown: unknown) => reportFatal(thrown)),
  )

interface CoordinatorArgs extends EdgeArgs, AccessArgs {
  model: string
  name?: string | undefined
  host: string
  port: number
  strategy: (typeof STRATEGY_CHOICES)[number]
  wire: (typeof WIRES)[number]
  precision?: Precision | undefined
  allowMixedPrecision: boolean
  cache?: string | undefined
  insecurePlaintext: boolean
  acceptPlaintext: boolean
  expectWorkers: number
  selfCheck: number
  cluster?: string | undefined
  certificateHours: number
  tlsName: string[]
  bodyLimitMib: number
  pingSeconds: number
  logLevel: string
}

async function run(args: CoordinatorArgs): Promise<void> {
  checkHost(args.host, { ...args, secure: args.cluster !== undefined })
  const stopped = stopSignal()
  const cache = resolve(args.cache ?? defaultCache())
  const modelFolder = await resolveModel(args.model, cache)
  const coordinator = await startCoordinator(
    {
      modelFolder,
      modelName: args.name ?? (modelFolder === args.model ? undefined : args.model),
      cache,
      precision: args.precision,
      mixedPrecision: args.allowMixedPrecision,
      host: args.host,
      port: wholeNumber('port', args.port, 0, 65535),
      strategy: strategyOf(args.strategy),
      narrowestWire: args.wire,
      expectedWorkers: wholeNumber('expect-workers', args.expectWorkers, 0, 4096),
      selfCheckRate: shareOf('self-check', args.selfCheck),
      cluster: clusterOf(args),
      bodyLimitBytes: wholeNumber('body-limit-mib', args.bodyLimitMib, 1, 1024) * 2 ** 20,
      pingSeconds: wholeNumber('ping-seconds', args.pingSeconds, 1, 3600),
      edge: edgeConfig(args),
      limits: queueLimits(args),
    },
    createLog('coordinator', args.logLevel),
  )
  process.stdout.write(`${coordinator.url}\n`)
  await aborted(stopped)
  await coordinator.close()
}

function clusterOf({ cluster, certificateHours, tlsName }: CoordinatorArgs): OpenAuthority | undefined {
  if (cluster === undefined) return undefined
  const odd = tlsName.find((name) => isIP(name) === 0 && !/^[A-Za-z0-9.-]{1,253}$/.test(name))
  if (odd !== undefined)
    throw new HeadraceError('bad_config', `--tls-name ${odd} is neither a host name nor an address`)
  const certificateSeconds = wholeNumber('certificate-hours', certificateHours, 1, 720) * 3600
  return { folder: resolve(cluster), certificateSeconds, names: tlsName }
}

const strategyOf = (choice: (typeof STRATEGY_CHOICES)[number]): Strategy | undefined =>
  choice === 'auto' ? undefined : choice
