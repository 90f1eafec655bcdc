import { stat } from 'node:fs/promises'
import type { Clock, Random } from '../../shared/clock.ts'
import { abortError, asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import type { Dialer } from '../../shared/link/link.ts'
import type { Log } from '../../shared/log.ts'
import type { FileHashes } from '../../shared/model-store/file-hashes.ts'
import { takeLock } from '../../shared/model-store/lock.ts'
import {
  contentsOf,
  type Manifest,
  MOST_MANIFEST_BYTES,
  manifestKey,
  parseManifest,
} from '../../shared/model-store/manifest.ts'
import type { ModelCache } from '../../shared/model-store/model-cache.ts'
import { Patience } from '../../shared/model-store/patience.ts'
import type { Shelf } from '../../shared/model-store/shelf.ts'
import { bodyOf, type Exchange, toldError } from '../../shared/security/exchange.ts'
import type { WorkerMetrics } from '../metrics.ts'
import { type AnnounceDeps, announce, httpBase } from './announce.ts'
import { download } from './download.ts'
import { PartialModel } from './partial-model.ts'
import { Swarm } from './swarm.ts'

const RETRY_FIRST_SECONDS = 0.2
const RETRY_MOST_SECONDS = 5
const SILENCE_SECONDS = 30
const REPORT_SECONDS = 2
const MOST_ERROR_BYTES = 65_536

export interface FetchModelDeps {
  readonly coordinatorUrl: string
  readonly identity: AnnounceDeps['identity']
  readonly cache: ModelCache
  readonly hashes: FileHashes
  readonly shelf: Shelf
  readonly dialer: Dialer
  readonly exchange: Exchange
  readonly metrics: WorkerMetrics
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
}

export interface FetchedModel {
  readonly path: string
  readonly fingerprint: string
}

/**
 * The coordinator's model, in the cache: what is missing of it comes from the coordinator and from other workers, and goes
 * on to others while it comes. Waits for the coordinator, and for another process of this machine that is at the same
 * model.
 *
 * @throws `cache_full`, `model_tampered`, `model_bad_manifest`, or the signal's error
 */
export async function fetchModel(of: FetchModelDeps, signal: AbortSignal): Promise<FetchedModel> {
  const { cache, log, clock } = of
  const manifest = await askManifest(of, signal)
  await cache.open()
  const key = manifestKey(manifest)
  await cache.lease(key)
  const unlock = await takeLock(cache.lockPath(key), clock, signal, () =>
    log.info('waiting for another process that fetches the same model'),
  )
  try {
    await makeRoom(of, manifest)
    const { hashes, shelf } = of
    const model = await PartialModel.open({ manifest, cache, hashes, shelf, signal })
    try {
      if (model.complete) log.info({ bytes: 0, seconds: 0 }, 'the model is in the cache')
      else await fetchMissing(of, model, signal)
      const { path } = await model.publish()
      of.metrics.weightsReady.set(1)
      return { path, fingerprint: manifest.fingerprint }
    } finally {
      await model.close()
    }
  } finally {
    await unlock()
  }
}

async function fetchMissing(of: FetchModelDeps, model: PartialModel, signal: AbortSignal): Promise<void> {
  const { coordinatorUrl, clock, log } = of
  const swarm = new Swarm(model.have, baseOf(coordinatorUrl), of.random)
  let news = (): void => undefined
  const over = new AbortController()
  const beside = AbortSignal.any([signal, over.signal])
  const onPeers: AnnounceDeps['onPeers'] = (peers) => {
    swarm.setPeers(peers)
    news()
  }
  const from = model.bytes
  const started = clock.now()
  log.info({ bytes: model.totalBytes, kept: from }, 'fetching the model')
  const refused = announce({ ...of, have: model.have, onPeers }, beside).catch((thrown: unknown) => over.abort(thrown))
  const reported = reportProgress(of, model, beside)
  try {
    await download({ ...of, model, swarm, signal: beside, onNews: (wake) => (news = wake) })
  } finally {
    over.abort(new HeadraceError('cancelled', 'the download is over'))
    await Promise.all([refused, reported])
  }
  const seconds = clock.now() - started
  log.info({ bytes: model.bytes - from, seconds: Number(seconds.toFixed(2)) }, 'fetched the model')
}

async function reportProgress({ clock, log, metrics }: FetchModelDeps, model: PartialModel, signal: AbortSignal) {
  let before = model.bytes
  while (!signal.aborted) {
    metrics.weightsReady.set(before / Math.max(1, model.totalBytes))
    await clock.sleep(REPORT_SECONDS, signal).catch(() => undefined) // the loop's condition ends it
    const now = model.bytes
    if (signal.aborted) return
    const bytesPerSecond = Math.round((now - before) / REPORT_SECONDS)
    log.info({ bytes: now, bytesPerSecond }, `downloading ${Math.floor((100 * now) / model.totalBytes)} %`)
    before = now
  }
}

/** For what is neither there nor on its way. */
async function makeRoom({ cache }: FetchModelDeps, manifest: Manifest): Promise<void> {
  let bytes = 0
  for (const { sha256, size } of contentsOf(manifest)) {
    if ((await stat(cache.blobPath(sha256)).catch(() => undefined)) !== undefined) continue // there
    const partial = await stat(cache.partialPath(sha256, 'pieces')).catch(() => undefined) // not begun
    bytes += size - Math.min(size, (partial?.blocks ?? 0) * 512)
  }
  await cache.makeRoom(bytes, new Set(manifest.files.map(({ sha256 }) => sha256)))
}

const baseOf = (coordinatorUrl: string): string => httpBase(coordinatorUrl) ?? coordinatorUrl

/** Asks until the coordinator answers: it may be started after its workers. */
async function askManifest(of: FetchModelDeps, signal: AbortSignal) {
  const { coordinatorUrl, clock, random, log, exchange } = of
  for (let seconds = RETRY_FIRST_SECONDS; ; seconds = Math.min(seconds * 2, RETRY_MOST_SECONDS))
    try {
      return await manifestAt(baseOf(coordinatorUrl), exchange, signal)
    } catch (thrown) {
      if (signal.aborted) throw abortError(signal)
      const error = asHeadraceError(thrown, 'dial_failed')
      if (error.code !== 'dial_failed' && error.code !== 'link_closed') throw error
      log.info({ coordinatorUrl, code: error.code }, `waiting for the coordinator: ${error.message}`)
      await clock.sleep(seconds * (0.5 + random()), signal)
    }
}

async function manifestAt(base: string, exchange: Exchange, signal: AbortSignal): Promise<Manifest> {
  const patience = new Patience(SILENCE_SECONDS, base, signal)
  try {
    const answer = await exchange.ask(`${base}/v1/model/manifest`, 'coordinator', { signal: patience.signal })
    if (answer.statusCode !== 200) {
      const told = toldError(await bodyOf(answer, MOST_ERROR_BYTES))
      if (told?.code === 'identity_revoked' || told?.code === 'certificate_refused') throw told
      throw new HeadraceError('dial_failed', `${base} answered ${answer.statusCode}; it may be an older coordinator`)
    }
    return parseManifest(jsonOf(await bodyOf(answer, MOST_MANIFEST_BYTES, () => patience.progress())))
  } finally {
    patience.end()
  }
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new HeadraceError('model_bad_manifest', 'the model’s manifest is not JSON', { cause })
  }
}
