import assert from 'node:assert/strict'
import type { z } from 'zod'
import { Registry } from '../../../coordinator/cluster/registry.ts'
import { createCoordinatorMetrics } from '../../../coordinator/metrics.ts'
import { HeadraceError, isErrorCode } from '../../../shared/errors.ts'
import { BufferPool } from '../../../shared/link/buffer-pool.ts'
import { DATA_LIMITS, type Link } from '../../../shared/link/link.ts'
import { createLog } from '../../../shared/log.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import { eventSchema, PROTOCOL_VERSION, type PrefillAssignment } from '../../../shared/protocol/control.ts'
import { encodeMessage } from '../../../shared/protocol/messages.ts'
import { peerDeliverySchema, peerRequestSchema } from '../../../shared/protocol/peer.ts'
import { KvServing } from '../../../worker/decode/kv-serving.ts'
import { PeerDialling } from '../../../worker/peers/dialling.ts'
import { PeerListening, type RunServer } from '../../../worker/peers/listening.ts'
import { RunExchange } from '../../../worker/prefill/run-exchange.ts'
import { TraceRecorder } from '../../../worker/trace/recorder.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { MemoryNetwork, memoryLinkPair } from '../../support/memory-link.ts'
import { events, peerDeliveries, peerRequests } from '../../support/sample-messages.ts'
import { valuesOf } from '../../support/schema-arbitrary.ts'
import type { Dice } from '../dice.ts'
import { joined, parted, type Target } from '../target.ts'
import { hostileMessage } from './frames.ts'

/**
 * Conversations: whole, damaged and badly timed messages one after the other on one or two links, against what listens.
 * An input is a list of frames, each behind one byte that says on which link it goes, and whether the next one waits until
 * this one has been delivered.
 */

const LINKS = 2
const AT_ONCE = 2
const MOST_FRAMES = 12
const fingerprint = 'f'.repeat(64)
const run = 'run-7'
/** What a decode node calls its cache of it. */
const cached = 'run-9'
const log = createLog('fuzz', 'silent')

type Schema = z.ZodType<{ kind: string }, object>
interface Talk {
  readonly schema: Schema
  readonly opening: readonly object[]
  readonly usual: readonly object[]
  readonly any: readonly unknown[]
}

/** Mostly what belongs into the conversation, in an order of its own, then whatever the schema allows. */
export function conversation(dice: Dice, { schema, opening, usual, any }: Talk): Uint8Array {
  const parts = Array.from({ length: 1 + dice.few(MOST_FRAMES) }, (_, i) => {
    const link = Uint8Array.of((dice.chance(0.7) ? 0 : 1) + (dice.chance(0.5) ? 0 : AT_ONCE))
    const pool = i < LINKS && dice.chance(0.8) ? opening : dice.chance(0.8) ? usual : any
    return Buffer.concat([link, dice.chance(0.7) ? whole(schema, dice.oneOf(pool)) : hostileMessage(dice, pool)])
  })
  return joined(parts)
}

/** Of a block of one position as int8, which most of them are. */
const PAYLOAD = new Uint8Array(12)

/** Once encoded, for all inputs: it is what is changed that is tested. */
const WHOLE = new Map<unknown, Uint8Array>()

function whole(schema: Schema, message: unknown): Uint8Array {
  const known = WHOLE.get(message) ?? encodeMessage(schema, message as { kind: string }, PAYLOAD)
  WHOLE.set(message, known)
  return known
}

export async function speak(input: Uint8Array, links: readonly Link[]): Promise<void> {
  for (const part of parted(input)) {
    const sent = links[(part[0] ?? 0) % links.length]!.send(part.slice(1)).catch(() => undefined) // told by the link's end
    if (((part[0] ?? 0) & AT_ONCE) === 0) await sent
  }
}

/** Speaks the input to `serve`, hangs up, and waits until it has understood. The first link's end is the outcome. */
async function converse(input: Uint8Array, serve: (link: Link) => Promise<void>): Promise<string> {
  const pairs = Array.from({ length: LINKS }, () => memoryLinkPair(DATA_LIMITS))
  const served = pairs.map(([, far]) => serve(far))
  await speak(
    input,
    pairs.map(([near]) => near),
  )
  await turn()
  const ends = pairs.map(([near]) => endOf(near))
  for (const [near] of pairs) near.close()
  await Promise.all(served)
  return ends[0]!
}

/** `ok` while it is open, else the code it was closed with. */
function endOf({ closed }: Link): string {
  return closed.aborted ? checkedCode(closed.reason) : 'ok'
}

export function checkedCode(reason: unknown): string {
  assert.ok(reason instanceof HeadraceError && isErrorCode(reason.code), String(reason))
  if (reason.code === 'internal') throw reason.cause ?? reason
  return reason.code
}

export const turn = () => new Promise((resolve) => setImmediate(resolve))

const place = {
  protocol: PROTOCOL_VERSION,
  role: 'prefill',
  engine: 'onnx',
  host: 'h',
  cores: 4,
  threads: 4,
  memoryBytes: 2 ** 34,
  budgetBytes: 2 ** 33,
} as const

/** The coordinator's end of joining. */
export const joins: Target = {
  name: 'joins',
  weight: 4,
  open: async () => {
    const metrics = createCoordinatorMetrics({ version: '0', model: 'm' })
    const opening = ['w1', 'w2'].flatMap((name) => [
      { kind: 'join', ...place, name, url: `ws://${name}`, fingerprint, precision: 'f32' },
      { kind: 'fetching', ...place, name, url: `ws://${name}`, pieces: 12 },
    ])
    const usual = [
      ...events,
      { kind: 'ready', cost: { o: 0, a: 1e-5, b: 0 } },
      { kind: 'pong', seq: 0, residentBytes: 1, clockSeconds: 5 },
      { kind: 'links_measured', links: [{ from: 'w1', rttSeconds: 0, bytesPerSecond: 1 }] },
    ]
    const talk = { schema: eventSchema, opening, usual, any: valuesOf(eventSchema, 1500) }
    return {
      input: (dice) => conversation(dice, talk),
      async take(input) {
        const registry = new Registry({ fingerprint, clock: new ManualClock(), metrics, log })
        const end = await converse(input, (link) => registry.serve(link))
        assert.deepEqual([registry.state.workers, registry.state.fetching], [[], []], 'a worker outlived its link')
        return end
      },
    }
  },
}

const shape = { layers: 3, kvHeads: 1, headDim: 2 } as ModelShape
const assignment: PrefillAssignment = {
  kind: 'prefill',
  run,
  strategy: 'chain',
  rank: 1,
  workers: ['worker-1', 'worker-2', 'worker-3'].map((worker, i) => ({
    worker,
    epoch: 1,
    url: 'memory://source',
    spans: [{ start: i, end: i + 1 }],
    prefixWire: 'int8',
    handoffWire: 'f32',
  })),
  decode: 'decode-1',
  decodeUrl: 'memory://decode',
  blockTokens: 8,
  promptTokens: 9,
  layers: { from: 0, to: 3 },
  tickets: [],
}

/** Of the middle of a chain of three. */
const exchange = (onError: (error: HeadraceError) => void): RunExchange => {
  const clock = new ManualClock()
  return new RunExchange({
    assignment,
    shape,
    fingerprint,
    clock,
    trace: new TraceRecorder(clock, 64),
    buffers: new BufferPool(),
    encode: (header, payload) => encodeMessage(peerDeliverySchema, header, payload),
    deliver: (_block, onUsed) => onUsed(),
    credit: () => undefined,
    onDrained: () => undefined,
    onError,
  })
}

/** The sending end of KV, with a run that has blocks to give. */
export const subscriptions: Target = {
  name: 'subscriptions',
  weight: 4,
  open: async () => {
    const hello = (worker: string) => ({ kind: 'hello', protocol: PROTOCOL_VERSION, worker, fingerprint })
    const opening = [hello('worker-3'), hello('decode-1'), hello('worker-9')]
    const usual = [
      ...peerRequests,
      ...opening,
      { kind: 'subscribe', run, purpose: 'prefix', window: 1, ticket: 't' },
      { kind: 'subscribe', run: 'run-8', purpose: 'prefix', window: 1, ticket: 't' },
      ...[cached, 'run-10'].map((of) => ({
        kind: 'subscribe',
        run: of,
        purpose: 'cached',
        window: 2,
        ticket: 't',
        wire: 'int8',
      })),
      { kind: 'credit', run: cached, window: 3 },
      { kind: 'credit', run, window: 2 },
      { kind: 'credit', run, window: 0x7fffffff },
      { kind: 'probe', seq: 1, bytes: 0 },
    ]
    const talk = { schema: peerRequestSchema, opening, usual, any: valuesOf(peerRequestSchema, 1500) }
    return {
      input: (dice) => conversation(dice, talk),
      async take(input) {
        const listening = new PeerListening({
          fingerprint,
          tickets: anyTicket,
          clock: new ManualClock(),
          log,
          buffers: new BufferPool(),
        })
        const serving = exchange((error) => void checkedCode(error))
        listening.open(run, serving)
        listening.open(cached, cache())
        for (const layer of [0, 1, 2]) {
          const block = { layer, count: 1, dtype: 'f32', crc32: 0, bytes: new Uint8Array(16) } as const
          for (const start of [1, 2, 3])
            serving.publish({ ...block, start }, layer < 2 ? ['prefix', 'handoff'] : ['handoff'])
        }
        return converse(input, (link) => listening.serve(link))
      },
    }
  },
}

/** What tickets are worth is tested elsewhere; here all doors are to be tried. */
const anyTicket = { check: () => undefined }

/** A decode node's cache, of which a block at position 0 is asked for. */
function cache(): RunServer {
  const block = { crc32: 0, dtype: 'int8', bytes: new Uint8Array(12) } as const
  return new KvServing({
    worker: 'decode-1',
    epoch: 1,
    fingerprint,
    compute: { fetch: (wanted, _wire, onBlock) => onBlock({ ...wanted, ...block }) },
    encode: (header, payload) => encodeMessage(peerDeliverySchema, header, payload),
    isBlock: ({ layer, start }) => layer >= 0 && layer < 3 && start === 0,
    mostBlocks: 16,
    clock: new ManualClock(),
    log,
  }).server(cached, (worker) => worker !== 'worker-9')
}

/** The receiving end of KV: a peer that was dialled and sends what it likes. */
export const deliveries: Target = {
  name: 'deliveries',
  weight: 4,
  open: async () => {
    const block = {
      kind: 'kv',
      run,
      fingerprint,
      origin: 'worker-1',
      epoch: 1,
      start: 0,
      count: 1,
      dtype: 'int8',
      crc32: 1,
    }
    const opening = [0, 1].map((layer) => ({ ...block, layer }))
    const usual = [
      ...peerDeliveries,
      ...opening,
      { ...block, layer: 2 },
      { ...block, layer: 0, dtype: 'f32' },
      { kind: 'ended', run, code: 'cancelled', message: '' },
    ]
    const talk = { schema: peerDeliverySchema, opening, usual, any: valuesOf(peerDeliverySchema, 1500) }
    return { input: (dice) => conversation(dice, talk), take: receive }
  },
}

async function receive(input: Uint8Array): Promise<string> {
  const network = new MemoryNetwork()
  const listeners: Link[] = []
  network.register('memory://source', DATA_LIMITS, (link) => listeners.push(link))
  const dialling = new PeerDialling({ dialer: network, worker: 'worker-2', fingerprint, log })
  const receiving = exchange((error) => void checkedCode(error))
  const ends: string[] = []
  await dialling.subscribe(
    { run, source: 'worker-1', url: 'memory://source', ticket: 't', purpose: 'prefix', window: 3 },
    {
      block: (header, payload, frame) => receiving.receive(header, payload, frame),
      lost: (error) => ends.push(checkedCode(error)),
    },
    new AbortController().signal,
  )
  const source = listeners[0]!
  await speak(input, [source])
  await turn()
  const end = ends[0] ?? 'ok'
  source.close()
  while (!source.closed.aborted) await turn()
  await turn()
  dialling.close()
  return end
}
