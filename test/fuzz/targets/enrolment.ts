import { once } from 'node:events'
import { createServer as createHttpServer, STATUS_CODES } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createServer, type TLSSocket } from 'node:tls'
import { parseWith } from '../../../coordinator/http/errors.ts'
import { keyOfRequest } from '../../../coordinator/security/x509.ts'
import type { ErrorCode } from '../../../shared/errors.ts'
import { JOIN_PATH, renewRequestSchema } from '../../../shared/security/join-messages.ts'
import { secretHash, tokenText } from '../../../shared/security/join-token.ts'
import { enrol } from '../../../worker/security/enrol.ts'
import { type CertifiedCluster, certifiedCluster, certifiedIn, today } from '../../support/certified.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { damaged, STRANGERS } from '../damage.ts'
import { Dice } from '../dice.ts'
import { hostileJson } from '../json.ts'
import { joined, outcomeOf, parted, type Target } from '../target.ts'
import { WORDS } from './frames.ts'
import { openApi, refusalOf } from './http.ts'

/** The exchange of a token for a certificate: what joiners send to the coordinator, and what may answer a joiner. */

/** Stands in an input where the hash of the authority's key goes, which is another one in each process. */
const PIN = 'a'.repeat(64)
const token = { authority: PIN, id: '0123abcd', secret: 'A'.repeat(22) }
/** Of a P-256 key that was made for this file; DER. */
const REQUEST = Buffer.from(
  'MIG6MGICAQAwADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABHNJMKnFkrdojLqaVd5JRR3v8uY45v6OOaDRSbt9YMK6twHe4aYKx5i3' +
    'TM2ks+HpUHF6ibipa/z9lGu7vm3zuYygADAKBggqhkjOPQQDAgNIADBFAiAuayGTaCF+RqREuXPoGRPx2rUTavCqJq79HR0nSWc+kwIh' +
    'AId45E/X9nL5Kh8YwAAaTTV5D7Z/M2nhXw4epYjyiGeB',
  'base64',
)
/** Of DER: types with their lengths short, long, wrong and without an end; numbers of objects. */
const DER_WORDS: readonly Uint8Array[] = [
  ...WORDS.slice(0, 12),
  ...[0x02, 0x03, 0x04, 0x06, 0x0c, 0x30, 0x31, 0xa0].flatMap((type) => [
    [type, 0],
    [type, 0x80],
    [type, 0x81, 0xff],
    [type, 0x84, 0xff, 0xff, 0xff, 0xff],
  ]),
  [0x1f, 0xff, 0xff, 0xff, 0xff, 0x7f],
  Array.from({ length: 600 }, () => 0x30),
  Array.from({ length: 1200 }, (_, i) => (i % 2 === 0 ? 0x30 : 0x80)),
  [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
  [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
].map((bytes) => Uint8Array.from(bytes))

const pem = (what: string, der: Uint8Array): string =>
  `-----BEGIN ${what}-----\n${Buffer.from(der).toString('base64').replaceAll(/.{64}/g, '$&\n')}\n-----END ${what}-----\n`

async function openCluster(): Promise<CertifiedCluster> {
  const cluster = await certifiedCluster()
  const hash = secretHash(token.secret)
  const life = { createdAt: today(), expiresAt: today() + 86_400 }
  await cluster.folder.tokens.add({ id: token.id, hash, role: 'prefill', uses: 1000, ...life })
  return cluster
}

/** Whether it goes to the renewal; the body. */
function requestInput(dice: Dice): Uint8Array {
  const der = dice.chance(0.4) ? REQUEST : damaged(dice, REQUEST, DER_WORDS)
  const body = { token: tokenText(token), request: pem('CERTIFICATE REQUEST', der), name: 'kitchen' }
  const renewal = dice.chance(0.4)
  const wanted = renewal ? { request: body.request } : dice.chance(0.8) ? { ...body, name: undefined } : body
  const told = dice.chance(0.6) ? Buffer.from(JSON.stringify(wanted)) : hostileJson(dice, wanted, STRANGERS)
  return joined([Uint8Array.of(renewal ? 1 : 0), told])
}

export const joinRequests: Target = {
  name: 'join-requests',
  weight: 1,
  open: async () => {
    const cluster = await openCluster()
    const clock = new ManualClock()
    const authority = await cluster.authority({ clock })
    const app = await openApi({ authority })
    const member = certifiedIn(await cluster.credentials({ name: 'worker-1' }))
    const headers = { 'content-type': 'application/json' }
    return {
      input: requestInput,
      async take(input) {
        clock.advance(61) // or the address would be shut out after ten
        const [route, body] = parted(input)
        const payload = Buffer.from(body ?? [])
          .toString()
          .replaceAll(PIN, cluster.folder.authorityKey)
        if (route?.[0] === 1) return outcomeOf(REFUSALS, () => renew(payload))
        const answer = await app.inject({ method: 'POST', url: JOIN_PATH, headers, payload })
        return answer.statusCode === 200 ? 'ok' : refusalOf(answer.statusCode, answer.body)
      },
      close: async () => {
        await app.close()
        await cluster[Symbol.asyncDispose]()
      },
    }

    /** The route itself asks a TLS socket who is there. */
    async function renew(text: string): Promise<void> {
      let body: unknown
      try {
        body = JSON.parse(text)
      } catch {
        return // fastify says so; the joins go through it
      }
      await authority.renew(member, parseWith(renewRequestSchema, body).request)
    }
  },
}

const REFUSALS: ReadonlySet<ErrorCode> = new Set(['invalid_request'] as const)

/** Stands in an input where a certificate for the joiner's own key goes. */
const GOOD = '@CERTIFICATE@'
const HTTP_WORDS = [
  '\r\n',
  '\r\n\r\n',
  '\0',
  'HTTP/1.1 100 Continue\r\n\r\n',
  'HTTP/1.1 204 No Content\r\n\r\n',
  'content-length: 99999999999\r\n',
  'transfer-encoding: chunked\r\n\r\nffffffff\r\n',
  'location: http://127.0.0.1:1/\r\n',
  `x: ${'y'.repeat(20_000)}\r\n`,
  'z'.repeat(20_000),
].map((text) => Buffer.from(text))

/** A seed of damage to the certificate, 0 for none; the whole answer. */
function answerInput(dice: Dice): Uint8Array {
  const seed = Uint8Array.of(dice.chance(0.5) ? 0 : dice.below(256))
  const error = { error: { code: 'token_refused', message: 'no', type: 't', param: null } }
  const good = dice.chance(0.7)
  const value = good ? { certificate: GOOD } : error
  const body = Buffer.from(dice.chance(0.4) ? JSON.stringify(value) : hostileJson(dice, value, STRANGERS))
  const status = good ? 200 : dice.oneOf([200, 401, 429, 500])
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n`
  const whole = Buffer.concat([Buffer.from(head), body])
  return joined([seed, dice.chance(0.7) ? whole : damaged(dice, whole, HTTP_WORDS)])
}

export const joinAnswers: Target = {
  name: 'join-answers',
  weight: 0.5,
  open: async () => {
    const cluster = await openCluster()
    const { certificate, key } = await cluster.credentials({ role: 'coordinator', name: 'coordinator' })
    let input: Uint8Array = new Uint8Array(0)
    const http = createHttpServer((request, response) => {
      const text: Buffer[] = []
      request.on('data', (part: Buffer) => text.push(part))
      request.on('end', () => {
        // What goes out is not what a server of HTTP would say.
        void answerTo(cluster, Buffer.concat(text).toString(), input).then((answer) => response.socket?.end(answer))
      })
    })
    const server = createServer({ cert: `${certificate}${cluster.folder.authority.certificate}`, key })
    server.on('secureConnection', (socket: TLSSocket) => {
      socket.on('error', () => undefined)
      http.emit('connection', socket)
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const base = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
    const shown = tokenText({ ...token, authority: cluster.folder.authorityKey })
    return {
      input: answerInput,
      take: (bytes) => {
        input = bytes
        return outcomeOf(ANSWERED, () => enrol(base, { token: shown }, new AbortController().signal))
      },
      close: async () => {
        server.close()
        await cluster[Symbol.asyncDispose]()
      },
    }
  },
}

/** What a joiner may come to by itself, and what it was told here. */
const ANSWERED: ReadonlySet<ErrorCode> = new Set([
  'dial_failed',
  'certificate_refused',
  'body_too_large',
  'token_refused',
] as const)

async function answerTo(cluster: CertifiedCluster, asked: string, input: Uint8Array): Promise<Buffer> {
  const [seed, template] = parted(input)
  const text = Buffer.from(template ?? []).toString('latin1')
  if (!text.includes(GOOD)) return Buffer.from(template ?? [])
  const { request } = JSON.parse(asked) as { request: string }
  const identity = { cluster: cluster.folder.cluster, role: 'prefill', name: 'w1' } as const
  const life = { from: new Date(), seconds: 3600 }
  const issued = await cluster.issuer.issue(identity, await keyOfRequest(request), life)
  const der = Buffer.from(issued.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64')
  const shown = seed?.[0] ? damaged(new Dice(seed[0]), der, DER_WORDS) : der
  return Buffer.from(text.replaceAll(GOOD, pem('CERTIFICATE', shown).replaceAll('\n', '\\n')), 'latin1')
}
