import { HeadraceError } from './errors.ts'

/**
 * What a worker did in a run and when. `project`, `attend` and `mix` are the engine's functions of a layer; `wait` stood
 * still because KV had not arrived; `send` is from the first to the last frame of a layer handed to the operating system
 * for one peer, `receive` from the first to the last that came from one; `decode` is one token of the answer.
 */
export const SPAN_KINDS = ['project', 'attend', 'mix', 'wait', 'send', 'receive', 'decode'] as const
export type SpanKind = (typeof SPAN_KINDS)[number]

/** A stretch of time, in seconds of one clock. Those of one worker and peer (or none: its arithmetic) never overlap. */
export interface TraceSpan {
  readonly kind: SpanKind
  /** Of `decode` it is the token's index in the answer. */
  readonly layer: number
  /** At the other end of `send` and `receive`. */
  readonly peer?: string
  readonly start: number
  readonly end: number
}

/**
 * A trace as bytes, little-endian: version u16, peers u16, spans u32, origin f64 and tick f64 in seconds; of each peer
 * its length u8 and name in UTF-8; of each span kind u8, peer u8 (255: none), layer u16, start u32 and end u32 in ticks
 * after the origin. A payload may hold several traces one after the other: each thread of a worker writes its own.
 */
const VERSION = 1
const HEAD_BYTES = 24
const SPAN_BYTES = 12
const NO_PEER = 255
const MAX_LAYER = 0xffff
const MAX_TICKS = 0xffffffff
const LEAST_TICK_SECONDS = 1e-6

/** Spans in one trace: what a recorder keeps, and the most that is read. */
export const MAX_SPANS = 8192
/** A worker has two threads; more traces in one payload are not read. */
const MAX_TRACES = 4

/** Times are rounded to a tick (a microsecond, more only in traces longer than an hour); what does not overlap stays so. */
export function encodeTrace(spans: readonly TraceSpan[]): Uint8Array<ArrayBuffer> {
  const peers = [...new Set(spans.flatMap(({ peer }) => peer ?? []))].slice(0, NO_PEER)
  const names = peers.map((peer) => new TextEncoder().encode(peer).subarray(0, 255))
  const origin = spans.reduce((least, { start }) => Math.min(least, start), spans[0]?.start ?? 0)
  const end = spans.reduce((most, span) => Math.max(most, span.end), origin)
  const tick = Math.max(LEAST_TICK_SECONDS, (end - origin) / MAX_TICKS)
  const nameBytes = names.reduce((sum, name) => sum + 1 + name.length, 0)
  const bytes = new Uint8Array(HEAD_BYTES + nameBytes + spans.length * SPAN_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, VERSION, true)
  view.setUint16(2, names.length, true)
  view.setUint32(4, spans.length, true)
  view.setFloat64(8, origin, true)
  view.setFloat64(16, tick, true)
  let at = HEAD_BYTES
  for (const name of names) {
    bytes[at] = name.length
    bytes.set(name, at + 1)
    at += 1 + name.length
  }
  const ticks = (time: number): number => Math.min(Math.round((time - origin) / tick), MAX_TICKS)
  for (const { kind, peer, layer, start, end: stop } of spans) {
    const place = peer === undefined ? -1 : peers.indexOf(peer)
    view.setUint8(at, SPAN_KINDS.indexOf(kind))
    view.setUint8(at + 1, place < 0 ? NO_PEER : place)
    view.setUint16(at + 2, Math.min(layer, MAX_LAYER), true)
    view.setUint32(at + 4, ticks(start), true)
    view.setUint32(at + 8, ticks(stop), true)
    at += SPAN_BYTES
  }
  return bytes
}

/**
 * The spans of every trace in `bytes`; none in an empty payload.
 * @throws HeadraceError `frame_bad_schema` if the bytes are no traces
 */
export function decodeTraces(bytes: Uint8Array): TraceSpan[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const spans: TraceSpan[] = []
  let at = 0
  for (let traces = 0; at < bytes.length; traces++) {
    if (traces === MAX_TRACES) throw malformed('too many of them')
    at = decodeOne(bytes, view, at, spans)
  }
  return spans
}

/** Appends the spans of the trace at `at` and returns where it ends. */
function decodeOne(bytes: Uint8Array, view: DataView, start: number, into: TraceSpan[]): number {
  if (bytes.length < start + HEAD_BYTES) throw malformed('its head is cut off')
  if (view.getUint16(start, true) !== VERSION) throw malformed('its version is another')
  const peerCount = view.getUint16(start + 2, true)
  const count = view.getUint32(start + 4, true)
  const origin = view.getFloat64(start + 8, true)
  const tick = view.getFloat64(start + 16, true)
  if (peerCount > NO_PEER || count > MAX_SPANS) throw malformed('it is longer than any recorder makes it')
  if (!Number.isFinite(origin) || !(tick > 0 && tick < 1)) throw malformed('its times make no sense')
  let at = start + HEAD_BYTES
  const peers: string[] = []
  for (let i = 0; i < peerCount; i++) {
    const length = bytes[at] ?? 0
    peers.push(new TextDecoder().decode(bytes.subarray(at + 1, at + 1 + length)))
    at += 1 + length
  }
  if (bytes.length < at + count * SPAN_BYTES) throw malformed('spans are missing')
  for (let i = 0; i < count; i++, at += SPAN_BYTES) {
    const kind = SPAN_KINDS[view.getUint8(at)]
    const peer = peers[view.getUint8(at + 1)]
    const layer = view.getUint16(at + 2, true)
    const from = view.getUint32(at + 4, true)
    const to = view.getUint32(at + 8, true)
    if (kind === undefined || to < from) throw malformed('a span makes no sense')
    const times = { start: origin + from * tick, end: origin + to * tick }
    into.push({ kind, layer, ...(peer === undefined ? {} : { peer }), ...times })
  }
  return at
}

const malformed = (why: string): HeadraceError =>
  new HeadraceError('frame_bad_schema', `the trace cannot be read: ${why}`)
