import { hostname } from 'node:os'
import { resolve } from 'node:path'
import {
  checkHost,
  linkUrl,
  modelOptions,
  PLAINTEXT_OPTIONS,
  type Program,
  wholeNumber,
} from '../shared/cli/options.ts'
import { aborted, reportFatal, stopSignal } from '../shared/cli/process.ts'
import { DEVICES, ENGINES, WEIGHTS } from '../shared/engine-name.ts'
import { HeadraceError } from '../shared/errors.ts'
import { realClock } from '../shared/link/real-clock.ts'
import { createLog } from '../shared/log.ts'
import { budgetBytes, defaultCache, resolveModel } from '../shared/model-store/resolve.ts'
import { isName } from '../shared/security/identity.ts'
import { httpBase } from './model-store/announce.ts'
import type { OwnIdentity } from './security/own-identity.ts'
import { defaultKvBudgetBytes, defaultThreads, startWorker, type WorkerConfig } from './worker.ts'

/** Runs that a leaving worker still has may take so long to end. */
const GRACE_SECONDS = 10

/** `headrace worker`. */
export const workerCommand = (program: Program): Program =>
  program.command(
    'worker',
    'Compute KV (prefill) or answer from it (decode) for a coordinator',
    (args) =>
      modelOptions(args, { defaultDescription: 'fetched from the coordinator' })
        .option('coordinator', {
          type: 'string',
          alias: 'join',
          default: '127.0.0.1:8080',
          describe: 'Address of the coordinator; https:// if it has a cluster authority',
        })
        .option('cache-budget-mib', {
          type: 'number',
          describe: 'Most disk for fetched models [default: what is free]',
        })
        .option('role', {
          choices: ['prefill', 'decode'] as const,
          describe: 'What to do [default: as the token says, else prefill]',
        })
        .option('name', {
          type: 'string',
          describe: 'Unique in the cluster [default: as the token says, else role, host, process id]',
        })
        .option('state', {
          type: 'string',
          describe: "Folder of the worker's own identity, in a cluster with certificates",
        })
        .option('token', {
          type: 'string',
          describe:
            'Join token, for as long as --state holds no identity; rather HEADRACE_TOKEN, which `ps` does not show',
        })
        .option('engine', { choices: ENGINES, default: 'onnx' as const, describe: 'What does the arithmetic' })
        .option('threads', { type: 'number', describe: 'Threads of the engine [default: all cores]' })
        .option('device', {
          choices: DEVICES,
          default: 'cpu' as const,
          describe: 'Where the onnx engine computes; auto: on a GPU if there is one',
        })
        .option('weights', {
          choices: WEIGHTS,
          describe: 'How weights are kept and computed with [default: f32; f16 on a GPU that computes with it]',
        })
        .option('host', { type: 'string', default: '127.0.0.1', describe: 'Where to listen for other workers' })
        .option('port', {
          type: 'number',
          default: 0,
          describe: 'Port for other workers and /metrics; 0 takes a free one',
        })
        .option('advertise', { type: 'string', describe: 'Host name or address under which others reach this worker' })
        .options(PLAINTEXT_OPTIONS)
        .option('kv-budget-mib', {
          type: 'number',
          describe: 'Most KV cache of all runs here [default: 70 % of free memory]',
        }),
    (args) => run(args).catch((thrown: unknown) => reportFatal(thrown)),
  )

interface WorkerArgs {
  coordinator: string
  model?: string | undefined
  cache?: string | undefined
  cacheBudgetMib?: number | undefined
  role?: WorkerConfig['role'] | undefined
  state?: string | undefined
  token?: string | undefined
  name?: string | undefined
  engine: WorkerConfig['engine']
  threads?: number | undefined
  device: WorkerConfig['device']
  weights?: WorkerConfig['weights']
  host: string
  port: number
  advertise?: string | undefined
  insecurePlaintext: boolean
  acceptPlaintext: boolean
  kvBudgetMib?: number | undefined
  logLevel: string
}

async function run(args: WorkerArgs): Promise<void> {
  if (args.token !== undefined && args.state === undefined)
    throw new HeadraceError('bad_config', '--token needs --state: a folder where the worker keeps its identity')
  const secure = args.state !== undefined
  checkHost(args.host, { ...args, secure })
  const coordinatorUrl = linkUrl(args.coordinator, secure)
  const stopped = stopSignal()
  const identity = await findIdentity(args, coordinatorUrl, stopped)
  const role = identity?.role ?? args.role ?? 'prefill'
  const name = identity?.certified.name ?? args.name ?? `${role}-${hostname().slice(0, 32)}-${process.pid}`
  const log = createLog(name, args.logLevel)
  const cache = resolve(args.cache ?? defaultCache())
  const worker = await startWorker(
    {
      coordinatorUrl,
      identity,
      model: args.model && (await resolveModel(args.model, cache)),
      cache,
      cacheBudgetBytes: budgetBytes(args.cacheBudgetMib),
      role,
      name,
      engine: args.engine,
      device: args.device,
      weights: args.weights,
      threads: wholeNumber('threads', args.threads ?? defaultThreads(), 1, 1024),
      host: args.host,
      port: wholeNumber('port', args.port, 0, 65535),
      advertise: args.advertise,
      kvBudgetBytes:
        args.kvBudgetMib === undefined
          ? defaultKvBudgetBytes()
          : wholeNumber('kv-budget-mib', args.kvBudgetMib, 1, 2 ** 30) * 2 ** 20,
    },
    log,
    stopped,
  ).catch((thrown: unknown) => {
    // Told to stop while its model was on its way: it has nothing to leave in good order.
    if (stopped.aborted) return undefined
    throw thrown
  })
  if (worker === undefined) return
  await Promise.race([worker.done, aborted(stopped).then(() => worker.leave(GRACE_SECONDS))])
  await worker.done
}

/** Who this worker is, where the cluster has certificates. What is said on the command line must not contradict it. */
async function findIdentity(
  { state, token, name, role, logLevel }: WorkerArgs,
  coordinatorUrl: string,
  signal: AbortSignal,
): Promise<OwnIdentity | undefined> {
  if (state === undefined) return undefined
  if (name !== undefined && !isName(name))
    throw new HeadraceError('bad_config', '--name takes letters, digits, dots, dashes and underscores, at most 64')
  const time = { clock: realClock, today: () => Date.now() / 1000 }
  const log = createLog(name ?? 'worker', logLevel)
  const base = httpBase(coordinatorUrl)!
  // certificates are made with libraries that no other cluster's worker need hold
  const { OwnIdentity } = await import('./security/own-identity.ts')
  const identity = await OwnIdentity.open({ folder: resolve(state), base, token, name, ...time, log }, signal)
  const { certified } = identity
  if ((name ?? certified.name) === certified.name && (role ?? certified.role) === certified.role) return identity
  throw new HeadraceError('bad_config', `--state ${state} is the identity of ${certified.role} ${certified.name}`)
}
