import { type IncomingMessage, Agent as PlainAgent, request as plainRequest } from 'node:http'
import { Agent, request } from 'node:https'
import type { ConnectionOptions } from 'node:tls'
import { z } from 'zod'
import { HeadraceError, isErrorCode } from '../errors.ts'
import { safeParse } from '../safe-parse.ts'
import type { Expected, Membership } from './membership.ts'
import { refusalOf } from './refusal.ts'

/** What goes up with a request. */
export interface Ask {
  readonly method?: 'GET' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly signal: AbortSignal
}

/**
 * Asks other Headrace processes over HTTP, with TLS and this process's certificate where there is a membership. Redirects
 * are answers like any other: nobody is sent elsewhere. The answer's body is to be read or destroyed.
 */
export class Exchange {
  readonly #secure: Membership | undefined
  // No session is ever taken up again: a resumed one would not be checked.
  readonly #agents = {
    tls: new Agent({ keepAlive: true, maxCachedSessions: 0 }),
    plain: new PlainAgent({ keepAlive: true }),
  }

  constructor(secure?: Membership) {
    this.#secure = secure
  }

  /** @throws `certificate_refused`, or what the socket failed with */
  ask(url: string, expected: Expected, of: Ask): Promise<IncomingMessage> {
    const secure = this.#secure
    if (url.startsWith('https:') !== (secure !== undefined))
      throw new HeadraceError(
        'certificate_refused',
        `${url} ${secure ? 'has no TLS' : 'has TLS, but this end no identity'}`,
      )
    if (secure === undefined)
      return answered(plainRequest(url, { ...optionsOf(of), agent: this.#agents.plain }), of.body, url)
    return askOver(url, secure.clientOptions(expected), of, this.#agents.tls)
  }

  /** Closes the connections that wait for another request. */
  close(): void {
    this.#agents.tls.destroy()
    this.#agents.plain.destroy()
  }
}

/** One request with TLS options of its own, on a connection of its own unless an agent keeps them. */
export const askOver = (url: string, tls: ConnectionOptions, of: Ask, agent?: Agent): Promise<IncomingMessage> =>
  answered(request(url, { ...tls, ...optionsOf(of), agent: agent ?? false }), of.body, url)

const optionsOf = ({ method = 'GET', headers = {}, body, signal }: Ask) => ({
  method,
  signal,
  headers: body === undefined ? headers : { ...headers, 'content-length': Buffer.byteLength(body) },
})

function answered(asking: ReturnType<typeof request>, body: string | undefined, url: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    asking.once('response', resolve)
    asking.on('error', (error) => reject(refusalOf(error, url) ?? error))
    asking.end(body)
  })
}

const toldSchema = z.object({ error: z.object({ code: z.string(), message: z.string() }) })

/** What a coordinator says is wrong, in OpenAI's error object; `undefined` if it is none of ours. */
export function toldError(body: string): HeadraceError | undefined {
  const { data } = safeParse(toldSchema, jsonOf(body))
  if (data === undefined || !isErrorCode(data.error.code)) return undefined
  return new HeadraceError(data.error.code, data.error.message.slice(0, 2048))
}

export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // the caller knows what to say of it
  }
}

/** A whole body, up to a bound. @throws `body_too_large`, or what the socket failed with */
export async function bodyOf(
  answer: IncomingMessage,
  mostBytes: number,
  onProgress: () => void = () => undefined,
): Promise<string> {
  const parts: Buffer[] = []
  let bytes = 0
  for await (const part of answer as AsyncIterable<Buffer>) {
    onProgress()
    bytes += part.length
    if (bytes > mostBytes) throw new HeadraceError('body_too_large', `an answer of more than ${mostBytes} bytes`)
    parts.push(part)
  }
  return Buffer.concat(parts).toString()
}
