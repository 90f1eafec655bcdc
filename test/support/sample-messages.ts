import type { z } from 'zod'
import {
  type Command,
  commandSchema,
  eventSchema,
  type PrefillAssignment,
  type WorkerEvent,
} from '../../shared/protocol/control.ts'
import {
  type PeerDelivery,
  type PeerRequest,
  peerDeliverySchema,
  peerRequestSchema,
} from '../../shared/protocol/peer.ts'

/** One message of every kind, with every optional field there is. */

const run = 'run-7'
const fingerprint = '0123456789abcdef'.repeat(4)
const ticket = `1234.500.${'A'.repeat(86)}`
const workers: PrefillAssignment['workers'] = [
  {
    worker: 'worker-1',
    epoch: 3,
    url: 'ws://10.0.0.1:7001/link',
    spans: [{ start: 0, end: 300 }],
    prefixWire: 'f16',
    handoffWire: 'f32',
  },
  {
    worker: 'worker-2',
    epoch: 7,
    url: 'ws://10.0.0.2:7001/link',
    spans: [
      { start: 300, end: 512 },
      { start: 65_536, end: 70_000 },
    ],
    prefixWire: 'int8',
    handoffWire: 'f16',
  },
]

export const commands: readonly Command[] = [
  { kind: 'joined', worker: 'worker-1', epoch: 3, tickets: { cluster: 'home', key: 'B'.repeat(43), at: 1.5 } },
  { kind: 'denied', list: [{ name: 'worker-3', key: fingerprint, at: 1_790_000_000, until: 1_790_086_400 }] },
  { kind: 'tickets', run, tickets: [{ source: 'decode-1', ticket }] },
  { kind: 'refused', code: 'name_taken', message: 'worker-1 is connected' },
  { kind: 'ping', seq: 300 },
  {
    kind: 'prefill',
    run,
    strategy: 'chain',
    rank: 1,
    workers,
    decode: 'decode-1',
    decodeUrl: 'ws://10.0.0.9:7001/link',
    blockTokens: 512,
    promptTokens: 70_001,
    layers: { from: 0, to: 36 },
    tickets: [{ source: 'worker-1', ticket }],
  },
  {
    kind: 'decode',
    run,
    epoch: 4,
    workers,
    blockTokens: 512,
    prefillTokens: 70_000,
    promptTokens: 70_001,
    maxTokens: 128,
    stopTokens: [2, 151_645],
    sampling: { temperature: 0.5, topP: 1, topK: 40, seed: 0xffffffff, logprobs: 2 },
    wantLogits: true,
    checks: [{ worker: 'worker-1', starts: [0, 512], first: 0.5, deeper: 0.75 }],
    keep: { name: '5'.repeat(64), resume: false },
    tickets: [
      { source: 'worker-1', ticket },
      { source: 'worker-2', ticket },
    ],
  },
  { kind: 'repair', run, part: 'run-7.2', by: workers[0]!, layers: { from: 3, to: 36 }, ticket },
  { kind: 'survey', run, part: run, worker: 'worker-1' },
  { kind: 'lost', run, worker: 'worker-1' },
  { kind: 'stop', run },
  { kind: 'cancel', run, code: 'cancelled' },
  { kind: 'dismissed' },
  { kind: 'measure_links', peers: [{ worker: 'worker-1', url: 'ws://10.0.0.1:7001/link' }] },
  { kind: 'sources', sources: [{ url: 'ws://10.0.0.1:7001/link', whole: false }] },
]

export const events: readonly WorkerEvent[] = [
  {
    kind: 'join',
    protocol: 2,
    name: 'worker-1',
    role: 'prefill',
    fingerprint,
    engine: 'onnx',
    precision: 'f32',
    url: 'ws://10.0.0.1:7001/link',
    host: 'hôte-1',
    cores: 16,
    threads: 8,
    memoryBytes: 64 * 2 ** 30,
    budgetBytes: 48 * 2 ** 30,
  },
  {
    kind: 'fetching',
    protocol: 4,
    name: 'worker-1',
    role: 'prefill',
    engine: 'onnx',
    url: 'ws://10.0.0.1:7001/link',
    host: 'hôte-1',
    cores: 16,
    threads: 8,
    memoryBytes: 64 * 2 ** 30,
    budgetBytes: 48 * 2 ** 30,
    pieces: 12,
  },
  { kind: 'ready', cost: { o: 0.001, a: 0.0000125, b: 2 ** -40 } },
  { kind: 'pong', seq: 300, residentBytes: 3_000_000_000, clockSeconds: 12.5 },
  { kind: 'layer_finished', run, layer: 35 },
  { kind: 'kv_assembled', run },
  { kind: 'logits_computed', run },
  {
    kind: 'token_sampled',
    run,
    index: 3,
    token: 151_645,
    logprob: {
      logprob: -0.25,
      top: [
        { token: 151_645, logprob: -0.25 },
        { token: 7, logprob: -1.5 },
      ],
    },
  },
  {
    kind: 'finished',
    run,
    reason: 'stop',
    report: {
      worker: 'decode-1',
      role: 'decode',
      tokens: 70_001,
      computeSeconds: 1.5,
      attendSeconds: 0.5,
      waitSeconds: 0,
      sendSeconds: 0.125,
      sent: [{ to: 'worker-2', bytes: 2 ** 33 }],
    },
  },
  { kind: 'surveyed', run, part: run, worker: 'worker-1' },
  { kind: 'feed_lost', run, part: run, worker: 'worker-1', code: 'link_closed', message: 'it broke' },
  {
    kind: 'block_refused',
    run,
    part: run,
    worker: 'worker-1',
    layer: 3,
    start: 512,
    count: 512,
    code: 'kv_checksum',
  },
  {
    kind: 'checked',
    run,
    worker: 'worker-1',
    layer: 3,
    start: 512,
    count: 512,
    wrong: { relative: 0.25, outlier: 1.5 },
  },
  { kind: 'kv_kept', names: ['5'.repeat(64), 'a'.repeat(64)] },
  { kind: 'failed', run, code: 'engine_failed', message: 'out of registers' },
  { kind: 'leaving' },
  { kind: 'links_measured', links: [{ from: 'worker-1', rttSeconds: 0.00025, bytesPerSecond: 1.25e9 }] },
]

export const peerRequests: readonly PeerRequest[] = [
  { kind: 'hello', protocol: 2, worker: 'worker-2', fingerprint },
  { kind: 'subscribe', run, purpose: 'cached', window: 2, wire: 'f16', ticket },
  { kind: 'credit', run, window: 3 },
  { kind: 'unsubscribe', run },
  { kind: 'probe', seq: 9, bytes: 2 ** 18 },
]

export const peerDeliveries: readonly PeerDelivery[] = [
  {
    kind: 'kv',
    run,
    fingerprint,
    origin: 'worker-1',
    epoch: 3,
    layer: 35,
    start: 65_536,
    count: 512,
    dtype: 'f32',
    crc32: 0xdeadbeef,
  },
  { kind: 'ended', run, code: 'worker_failed', message: 'gave up' },
  { kind: 'refused', code: 'fingerprint_mismatch', message: 'another model' },
  { kind: 'probed', seq: 9 },
]

/** Payload bytes beside a sample: only the kinds that carry one have it. */
const PAYLOADS: Readonly<Record<string, Uint8Array>> = {
  prefill: Uint8Array.of(1, 0, 0, 0, 2, 0, 0, 0),
  decode: Uint8Array.of(3, 0, 0, 0),
  logits_computed: Uint8Array.of(0, 0, 0x80, 0x3f),
  sources: Uint8Array.of(0xff, 0x01),
  surveyed: Uint8Array.of(0, 2, 0, 0, 0, 4, 0, 0, 3, 0, 0, 0),
  subscribe: Uint8Array.of(3, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0),
  fetching: Uint8Array.of(0xff, 0x0f),
  kv: Uint8Array.of(9, 8, 7, 6, 5, 4, 3, 2),
  probed: Uint8Array.of(1, 2, 3),
}

export interface Sample {
  readonly family: string
  readonly schema: z.ZodType<{ kind: string }, object>
  readonly message: { kind: string }
  readonly payload: Uint8Array
}

const sample = (family: string, schema: Sample['schema'], messages: readonly { kind: string }[]): Sample[] =>
  messages.map((message) => ({ family, schema, message, payload: PAYLOADS[message.kind] ?? new Uint8Array(0) }))

export const SAMPLES: readonly Sample[] = [
  ...sample('command', commandSchema, commands),
  ...sample('event', eventSchema, events),
  ...sample('request', peerRequestSchema, peerRequests),
  ...sample('delivery', peerDeliverySchema, peerDeliveries),
]

export const FAMILIES = {
  command: commandSchema,
  event: eventSchema,
  request: peerRequestSchema,
  delivery: peerDeliverySchema,
} as const
