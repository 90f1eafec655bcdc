import { randomInt } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { basename, resolve } from 'node:path'
import { HeadraceError } from '../shared/errors.ts'
import type { Refusal } from '../shared/link/connection-cap.ts'
import { COORDINATOR_LIMITS, type Link } from '../shared/link/link.ts'
import { realClock } from '../shared/link/real-clock.ts'
import { attachLinks, listenLinks } from '../shared/link/ws-server.ts'
import type { Log } from '../shared/log.ts'
import { locateModel, readEosTokens, readModelShape } from '../shared/model-folder.ts'
import { type ModelShape, parameterCount } from '../shared/model-shape.ts'
import { FileHashes } from '../shared/model-store/file-hashes.ts'
import { identifyModel } from '../shared/model-store/identity.ts'
import type { Strategy, Wire } from '../shared/plan.ts'
import type { Precision } from '../shared/precision.ts'
import { packageVersion } from '../shared/version.ts'
import { Registry } from './cluster/registry.ts'
import type { ModelFacts } from './http/deps.ts'
import { type EdgeConfig, openEdge } from './http/edge.ts'
import { KeptAnswers } from './http/kept-answers.ts'
import { buildServer } from './http/server.ts'
import { type CoordinatorMetrics, createCoordinatorMetrics } from './metrics.ts'
import { type ModelShare, shareModel } from './models/model-share.ts'
import { measuredRuns } from './run-metrics.ts'
import { ClusterRuns } from './runs/cluster-runs.ts'
import type { Runs } from './runs/events.ts'
import { DEFAULT_QUEUE_LIMITS, type QueueLimits } from './runs/queue.ts'
import { heedChecks } from './runs/self-check.ts'
import { type Authority, type OpenAuthority, openAuthority } from './security/authority.ts'
import { loadChatTemplate } from './tokenizer/chat-template.ts'
import { loadTokenizer } from './tokenizer/tokenizer.ts'
import { RunStore } from './trace/store.ts'

/** Where workers dial. */
const LINK_PATH = '/link'

export interface CoordinatorConfig {
  readonly modelFolder: string
  /** The name that clients use; by default that of the folder or file. */
  readonly modelName: string | undefined
  /** Where hashes of the model's files are kept. */
  readonly cache: string
  /** What workers' numbers must be true to; absent: the same for all, whatever the first one brings. */
  readonly precision: Precision | undefined
  readonly mixedPrecision: boolean
  readonly host: string
  /** 0 takes any free port. */
  readonly port: number
  /** For requests that ask for none; absent leaves it to the planner. */
  readonly strategy: Strategy | undefined
  /** The narrowest precision that KV may have between machines. */
  readonly narrowestWire: Wire
  /** Workers and decode nodes that are about to join. */
  readonly expectedWorkers: number
  /** Probability with which each KV block is computed again. */
  readonly selfCheckRate: number
  /** Absent: neither the API nor the links have TLS. */
  readonly cluster: OpenAuthority | undefined
  readonly bodyLimitBytes: number
  readonly pingSeconds: number
  readonly edge: EdgeConfig
  readonly limits?: QueueLimits
}

export interface RunningCoordinator {
  readonly url: string
  close(): Promise<void>
}

/** The coordinator as people deploy it: the OpenAI-compatible API and the workers' links on one port. */
export async function startCoordinator(config: CoordinatorConfig, log: Log): Promise<RunningCoordinator> {
  const { modelFolder, host, port, pingSeconds, bodyLimitBytes } = config
  const modelName = config.modelName ?? nameOf(modelFolder)
  const authority = config.cluster && (await openAuthority(config.cluster, host, log))
  const [tokenizer, template, core] = await Promise.all([
    loadTokenizer(modelFolder),
    loadChatTemplate(modelFolder),
    startCore(modelFolder, modelName, config, log, authority),
  ])
  const { runs, metrics, shape, fingerprint } = core
  const edge = await openEdge(config.edge, host, log)
  const model = await modelFacts(modelFolder, modelName, shape, fingerprint)
  const app = buildServer({
    runs,
    tokenizer,
    template,
    model,
    store: core.store,
    share: core.share,
    authority,
    metrics,
    log,
    clock: realClock,
    kept: new KeptAnswers(realClock),
    ...edge,
    pingSeconds,
    bodyLimitBytes,
  })
  const secure = authority?.membership
  const { onLink } = core
  const onRefused = (reason: Refusal): void => metrics.connectionsRefused.inc({ reason })
  const detach = attachLinks(app.server, { path: LINK_PATH, limits: COORDINATOR_LIMITS, secure, onLink, onRefused })
  const url = await app.listen({ host, port }).catch((cause: Error) => {
    throw new HeadraceError('bad_config', `cannot listen on ${host}:${port}: ${cause.message}`, { cause })
  })
  core.keepWatch()
  log.info({ url, model: model.name, fingerprint }, 'listening')
  return {
    url,
    close: async () => {
      await core.close()
      detach()
      await app.close()
    },
  }
}

/** The same cluster without the API, for programs that drive runs themselves (`headrace verify`). */
export async function startHeadless(
  modelFolder: string,
  cache: string,
  log: Log,
): Promise<{ runs: Runs; shape: ModelShape; url: string; close(): Promise<void> }> {
  const { runs, shape, onLink, keepWatch, close } = await startCore(
    modelFolder,
    nameOf(modelFolder),
    // Which precision is verified is chosen by whoever starts the workers.
    { strategy: undefined, narrowestWire: 'f32', cache, precision: undefined, mixedPrecision: true },
    log,
  )
  keepWatch()
  const server = await listenLinks({ host: '127.0.0.1', port: 0, path: LINK_PATH, limits: COORDINATOR_LIMITS, onLink })
  return {
    runs,
    shape,
    url: server.url,
    close: async () => {
      await close()
      await server.close()
    },
  }
}

/** Nobody may foresee what is checked. */
const random = (): number => randomInt(2 ** 32) / 2 ** 32

interface Core {
  readonly runs: Runs
  readonly store: RunStore
  readonly metrics: CoordinatorMetrics
  readonly shape: ModelShape
  readonly fingerprint: string
  readonly share: ModelShare
  readonly onLink: (link: Link) => void
  /** Asks the workers for signs of life, until `close`. */
  keepWatch(): void
  close(): Promise<void>
}

async function startCore(
  modelFolder: string,
  modelName: string,
  config: Pick<CoordinatorConfig, 'strategy' | 'narrowestWire' | 'cache' | 'precision' | 'mixedPrecision' | 'limits'> &
    Partial<Pick<CoordinatorConfig, 'selfCheckRate' | 'expectedWorkers'>>,
  log: Log,
  authority?: Authority,
): Promise<Core> {
  const { strategy, narrowestWire, precision, mixedPrecision, limits = DEFAULT_QUEUE_LIMITS } = config
  const hashes = new FileHashes(config.cache)
  const [shape, local] = await Promise.all([readModelShape(modelFolder), identifyModel(modelFolder, hashes)])
  const { fingerprint } = local.manifest
  const metrics = createCoordinatorMetrics({ version: packageVersion, model: modelName })
  const { expectedWorkers = 0 } = config
  const admitted = { fingerprint, mixedPrecision, ...(precision === undefined ? {} : { precision }) }
  const registry = new Registry({
    ...admitted,
    expectedWorkers,
    membership: authority?.membership,
    clock: realClock,
    metrics,
    log,
  })
  const stopping = new AbortController()
  const store = new RunStore()
  const apply = registry.apply.bind(registry)
  const onChecked = heedChecks({ layers: shape.layers, apply, metrics, log })
  const selfCheck = { rate: config.selfCheckRate ?? 0, random, onChecked }
  const runs = new ClusterRuns({ registry, shape, strategy, narrowestWire, limits, selfCheck, clock: realClock, store })
  let watch = Promise.resolve()
  return {
    runs: measuredRuns(runs, metrics, realClock),
    store,
    metrics,
    shape,
    fingerprint,
    share: shareModel(local),
    onLink: (link) => {
      registry.serve(link).catch((error: unknown) => log.error({ err: error }, 'a worker was not served'))
    },
    keepWatch: () => {
      const { signal } = stopping
      const kept = [registry.keepWatch(signal), authority?.keep(() => registry.tellDenied(), signal)]
      watch = Promise.all(kept).then(() => undefined)
    },
    close: async () => {
      const reason = new HeadraceError('shutting_down', 'the coordinator is stopping')
      runs.close(reason)
      stopping.abort(reason)
      await watch
      registry.close()
    },
  }
}

async function modelFacts(folder: string, name: string, shape: ModelShape, fingerprint: string): Promise<ModelFacts> {
  const { weights } = await locateModel(folder)
  const sizes = await Promise.all(weights.map(async (path) => (await stat(path)).size))
  return {
    name,
    layers: shape.layers,
    contextLength: shape.contextLength,
    vocab: shape.vocab,
    params: parameterCount(shape),
    bytes: sizes.reduce((sum, size) => sum + size, 0),
    eosTokens: await readEosTokens(folder),
    fingerprint,
  }
}

/** What clients call a model that nobody has named: its folder or file, of a split file without the number of the part. */
const nameOf = (model: string): string => basename(resolve(model), '.gguf').replace(/-\d{5}-of-\d{5}$/, '')
