import { wireBytes } from '../../../shared/wire-bytes.ts'
import type { EncodedKv } from '../engine.ts'
import { exportHostKv, type HostKv, importHostKv } from '../host-tensors.ts'
import { allFiniteHalves } from '../wire-codec.ts'
import type { SessionSet, Slot } from './session-set.ts'

type Sessions = Pick<SessionSet, 'run'>

/** `Engine.exportKv`: from the cache straight into the block. */
export async function encodeKv(
  sessions: Sessions,
  kv: HostKv,
  start: number,
  count: number,
  wire: EncodedKv['dtype'],
): Promise<EncodedKv> {
  kv.checkRange(start, count)
  const narrow =
    wire === 'f16'
      ? await encodeHalf(sessions, kv, start, count)
      : wire === 'int8'
        ? await encodeInt8(sessions, kv, start, count)
        : undefined
  if (narrow !== undefined) return { dtype: wire, bytes: narrow }
  return { dtype: 'f32', bytes: new Uint8Array(exportHostKv(kv, start, count).buffer) }
}

/** `Engine.importKv`, for bytes of the right length: from the block straight into the cache. */
export async function decodeKv(
  sessions: Sessions,
  kv: HostKv,
  start: number,
  count: number,
  { dtype, bytes }: EncodedKv,
): Promise<void> {
  if (dtype === 'f16') await decodeHalf(sessions, kv, start, count, aligned(bytes))
  else if (dtype === 'int8') await decodeInt8(sessions, kv, start, count, aligned(bytes))
  else importHostKv(kv, start, count, bytes)
}

async function encodeHalf(sessions: Sessions, kv: HostKv, start: number, count: number) {
  const bytes = new Uint8Array(wireBytes(kv, count, 'f16'))
  const halves = new Uint16Array(bytes.buffer)
  const inputs = heads(kv, 'x', count, kv.ranges(start, count))
  await sessions.run('toHalf', inputs, heads(kv, 'y', count, pieces(halves, kv)))
  return allFiniteHalves(halves) ? bytes : undefined
}

function decodeHalf(sessions: Sessions, kv: HostKv, start: number, count: number, bytes: EncodedKv['bytes']) {
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)
  const outputs = heads(kv, 'y', count, kv.ranges(start, count))
  return sessions.run('fromHalf', heads(kv, 'x', count, pieces(halves, kv)), outputs)
}

async function encodeInt8(sessions: Sessions, kv: HostKv, start: number, count: number) {
  const bytes = new Uint8Array(wireBytes(kv, count, 'int8'))
  const sums = new Float32Array(2 * kv.kvHeads)
  const outputs = int8Slots(kv, count, bytes)
  for (const i of sums.keys()) outputs[`sum${i}`] = [sums.subarray(i, i + 1), []]
  await sessions.run('quantise', heads(kv, 'x', count, kv.ranges(start, count)), outputs)
  return sums.every(Number.isFinite) ? bytes : undefined
}

function decodeInt8(sessions: Sessions, kv: HostKv, start: number, count: number, bytes: EncodedKv['bytes']) {
  const outputs = heads(kv, 'x', count, kv.ranges(start, count))
  return sessions.run('dequantise', int8Slots(kv, count, bytes), outputs)
}

/** Scales and values of an int8 block, per head. */
function int8Slots(kv: HostKv, count: number, { buffer, byteOffset, length }: EncodedKv['bytes']) {
  const rows = 2 * kv.kvHeads * count
  const scales = pieces(new Float32Array(buffer, byteOffset, rows), kv)
  const values = pieces(new Int8Array(buffer, byteOffset + 4 * rows, length - 4 * rows), kv)
  const slots = heads(kv, 'q', count, values)
  for (const [i, scale] of scales.entries()) slots[`scale${i}`] = [scale, [count]]
  return slots
}

function heads(kv: HostKv, name: string, count: number, parts: readonly Slot[0][]): Record<string, Slot> {
  return Object.fromEntries(parts.map((part, i) => [`${name}${i}`, [part, [count, kv.headDim]]]))
}

/** The equal parts, one per KV head of K and of V, that a block's numbers are made of. */
function pieces<T extends Slot[0]>(all: T, { kvHeads }: HostKv): T[] {
  const length = all.length / (2 * kvHeads)
  return Array.from({ length: 2 * kvHeads }, (_, i) => all.subarray(i * length, (i + 1) * length) as T)
}

/** A frame's payload is; what is not is copied, because a float32 must be. */
const aligned = (bytes: EncodedKv['bytes']): EncodedKv['bytes'] => (bytes.byteOffset % 4 === 0 ? bytes : bytes.slice())
