import { z } from 'zod'
import { HeadraceError } from '../../shared/errors.ts'
import { Patience } from '../../shared/model-store/patience.ts'
import { safeParse } from '../../shared/safe-parse.ts'
import { PassingFailure } from './patiently.ts'

/**
 * A server that speaks the Hugging Face Hub's HTTP interface: `/api/models/…/revision/…` and `/tree/…` say what there is,
 * `/…/resolve/…` gives it, usually by a redirect to a store elsewhere.
 */

const SILENCE_SECONDS = 30
const MOST_REDIRECTS = 5
const MOST_PAGES = 50
const MOST_ANSWER_BYTES = 16 << 20

/** A file of a repository. Large ones are named by SHA-256, small ones by the SHA-1 of a git blob. */
export interface HubFile {
  readonly name: string
  readonly size: number
  readonly sha256?: string
  readonly gitSha1?: string
}

const size = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)
const entrySchema = z.looseObject({
  type: z.string(),
  path: z.string().max(1024),
  size: size.optional(),
  oid: z.string().optional(),
  lfs: z.looseObject({ oid: z.string().regex(/^[0-9a-f]{64}$/), size }).nullish(),
})
const treeSchema = z.array(entrySchema).max(10_000)
const revisionSchema = z.looseObject({ sha: z.string().regex(/^[0-9a-f]{40,64}$/) })

export class Hub {
  readonly #base: URL
  readonly #token: string | undefined

  /** @param token goes to this very server and nowhere that it redirects to */
  constructor(base: string, token: string | undefined) {
    const url = URL.canParse(base) ? new URL(base) : undefined
    if (url === undefined || (url.protocol !== 'http:' && url.protocol !== 'https:'))
      throw new HeadraceError('bad_config', `--hub ${base} is not an address such as https://huggingface.co`)
    this.#base = new URL(url.href.endsWith('/') ? url.href : `${url.href}/`)
    this.#token = token
  }

  /** The commit that a branch or tag stands at, so that all files are of the same one. */
  async commitOf(model: string, revision: string, signal: AbortSignal): Promise<string> {
    const { json } = await this.#json(`api/models/${model}/revision/${encodeURIComponent(revision)}`, model, signal)
    return read(revisionSchema, json).sha
  }

  /** The files at the top of the repository. */
  async list(model: string, commit: string, signal: AbortSignal): Promise<HubFile[]> {
    const files: HubFile[] = []
    let next: string | undefined = `api/models/${model}/tree/${commit}`
    for (let page = 0; next !== undefined && page < MOST_PAGES; page++) {
      const answer: { json: unknown; next: string | undefined } = await this.#json(next, model, signal)
      for (const { type, path, size = 0, oid, lfs } of read(treeSchema, answer.json)) {
        if (type !== 'file' || path.includes('/')) continue
        if (lfs) files.push({ name: path, size: lfs.size, sha256: lfs.oid })
        else files.push({ name: path, size, ...(oid === undefined ? {} : { gitSha1: oid }) })
      }
      next = answer.next
    }
    return files
  }

  /** A file's bytes from `start` on, or from its beginning if the server will not begin elsewhere. */
  async open(
    model: string,
    commit: string,
    file: HubFile,
    start: number,
    signal: AbortSignal,
  ): Promise<{ start: number; body: AsyncIterable<Uint8Array> }> {
    const answer = await this.#get(`${model}/resolve/${commit}/${encodeURIComponent(file.name)}`, model, signal, {
      'accept-encoding': 'identity',
      ...(start > 0 ? { range: `bytes=${start}-` } : {}),
    })
    const body = answer.body ?? emptyBody()
    if (answer.status === 200) return { start: 0, body }
    const from = /^bytes (\d+)-/.exec(answer.headers.get('content-range') ?? '')?.[1]
    if (answer.status === 206 && Number(from) === start) return { start, body }
    await answer.body?.cancel()
    throw new PassingFailure(`the hub answered ${answer.status} for bytes ${start}- of ${file.name}`)
  }

  async #json(path: string, model: string, signal: AbortSignal): Promise<{ json: unknown; next: string | undefined }> {
    const patience = new Patience(SILENCE_SECONDS, this.#base.origin, signal)
    try {
      const answer = await this.#get(path, model, patience.signal, { accept: 'application/json' })
      const parts: Uint8Array[] = []
      let bytes = 0
      for await (const part of answer.body ?? emptyBody()) {
        patience.progress()
        bytes += part.length
        if (bytes > MOST_ANSWER_BYTES) throw new HeadraceError('hub_failed', `the hub's answer to ${path} is too long`)
        parts.push(part)
      }
      const link = /<([^>]+)>;\s*rel="next"/.exec(answer.headers.get('link') ?? '')?.[1]
      return { json: JSON.parse(Buffer.concat(parts).toString()), next: link }
    } catch (thrown) {
      signal.throwIfAborted()
      if (thrown instanceof HeadraceError && thrown.code !== 'link_closed') throw thrown
      throw new PassingFailure(`the hub's answer to ${path} broke off`, { cause: thrown })
    } finally {
      patience.end()
    }
  }

  async #get(path: string, model: string, signal: AbortSignal, headers: Record<string, string>): Promise<Response> {
    let url = new URL(path, this.#base)
    for (let redirects = 0; redirects <= MOST_REDIRECTS; redirects++) {
      const own = url.origin === this.#base.origin && this.#token !== undefined
      const authorization = own ? { authorization: `Bearer ${this.#token}` } : {}
      const answer = await fetch(url, {
        headers: { ...headers, ...authorization },
        redirect: 'manual',
        signal,
      }).catch((cause: Error) => {
        signal.throwIfAborted()
        throw new PassingFailure(`${url.origin} cannot be reached: ${reasonOf(cause)}`, { cause })
      })
      const location = answer.headers.get('location')
      if (answer.status < 300 || answer.status >= 400 || location === null) return checked(answer, url, model)
      await answer.body?.cancel()
      const target = new URL(location, url)
      if (url.protocol === 'https:' && target.protocol !== 'https:')
        throw new HeadraceError('hub_failed', `${url.origin} redirects to ${target.origin}, which is not encrypted`)
      url = target
    }
    throw new HeadraceError('hub_failed', `the hub redirects ${path} without end`)
  }
}

async function checked(answer: Response, { origin, pathname }: URL, model: string): Promise<Response> {
  if (answer.ok) return answer
  await answer.body?.cancel()
  const { status } = answer
  const asked = `${origin}${pathname}`
  if (status === 401 || status === 403)
    throw new HeadraceError(
      'hub_forbidden',
      `${model} is not open to you (${status} for ${asked}): accept its terms on the hub and set HF_TOKEN`,
    )
  if (status === 404) throw new HeadraceError('hub_not_found', `the hub has no ${asked}`)
  if (status === 429 || status >= 500)
    throw new PassingFailure(`the hub answered ${status} for ${asked}`, { retryAfterSeconds: retryAfter(answer) })
  throw new HeadraceError('hub_failed', `the hub answered ${status} for ${asked}`)
}

/** In seconds or as a date (RFC 9110, section 10.2.3). */
function retryAfter({ headers }: Response): number | undefined {
  const text = headers.get('retry-after')
  if (text === null) return undefined
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined
}

function read<T>(schema: z.ZodType<T>, json: unknown): T {
  const parsed = safeParse(schema, json)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new HeadraceError('model_bad_manifest', `the hub's list: ${issue?.path.join('.')}: ${issue?.message}`)
}

async function* emptyBody(): AsyncGenerator<Uint8Array, void> {
  yield* []
}

/** The built-in client hides what went wrong behind "fetch failed". */
function reasonOf(thrown: Error): string {
  const cause = thrown.cause ?? thrown
  return cause instanceof Error ? cause.message : String(cause)
}
