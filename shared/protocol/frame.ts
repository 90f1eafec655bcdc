import { crc32 } from 'node:zlib'
import { createCodec, decode, encode } from 'msgpack-lite'
import { HeadraceError } from '../errors.ts'
import { scanHeader } from './scan.ts'

/**
 * One frame, all integers little-endian:
 *
 *     0   magic "HDRC"
 *     4   version, u16
 *     6   what the checksum covers, u16: 0 all but itself and the payload, 1 the payload too
 *     8   header length in bytes, u32
 *     12  payload length in bytes, u32
 *     16  checksum, CRC-32, u32
 *     20  header: one MessagePack map
 *     ..  zeros up to a multiple of 64 bytes from the start of the frame
 *     ..  payload, raw
 *
 * The payload starts on a cache line, so that any typed array can look at it where it lies. Bulk data never passes
 * through MessagePack, and the only file that touches the MessagePack library is this one.
 *
 * TCP's own sum misses one damaged segment in 65,536, and a bit in a token id or a position would be a wrong answer. Where
 * the header has the payload's checksum (`crc32`, of KV), who uses the payload checks it, and here it is not read.
 */

const FRAME_VERSION = 2
export const MAX_HEADER_BYTES = 2 ** 16

const PRELUDE_BYTES = 20
const CHECKSUM_AT = 16
const ALIGNMENT = 64
const MAGIC = 0x43524448 // "HDRC" read as a little-endian u32
const NO_PAYLOAD = new Uint8Array(0)

/** No extension types: the default codec would turn some of them into live objects. */
const codec = createCodec({ preset: false })

/** @param allocate that many bytes for the frame, with anything in them */
export function encodeFrame(
  header: object,
  payload: Uint8Array = NO_PAYLOAD,
  allocate: (length: number) => Uint8Array = (length) => new Uint8Array(length),
): Uint8Array {
  const packed = encode(withoutUndefined(header), { codec })
  if (packed.length > MAX_HEADER_BYTES) throw oversized(`the header has ${packed.length} bytes`)
  const start = payloadStart(packed.length)
  const frame = allocate(start + payload.length).fill(0, 0, start)
  const view = new DataView(frame.buffer, frame.byteOffset)
  view.setUint32(0, MAGIC, true)
  view.setUint16(4, FRAME_VERSION, true)
  view.setUint32(8, packed.length, true)
  view.setUint16(6, 'crc32' in header ? 0 : 1, true)
  view.setUint32(12, payload.length, true)
  frame.set(packed, PRELUDE_BYTES)
  frame.set(payload, start)
  view.setUint32(CHECKSUM_AT, checksum(frame, 'crc32' in header ? start : frame.length), true)
  return frame
}

/** Everything is checked before anything is allocated. The payload is a view of `bytes`, not a copy. */
export function decodeFrame<B extends ArrayBufferLike>(
  bytes: Uint8Array<B>,
  maxFrameBytes: number,
): { header: unknown; payload: Uint8Array<B> } {
  const { headerEnd, start, payloadCovered } = checkPrelude(bytes, maxFrameBytes)
  for (let i = headerEnd; i < start; i++) if (bytes[i] !== 0) throw badHeader('its padding is not zero')
  const packed = bytes.subarray(PRELUDE_BYTES, headerEnd)
  scanHeader(packed)
  const header = unpack(packed)
  if (!payloadCovered && !hasChecksum(header)) throw badHeader('nothing covers its payload')
  return { header, payload: bytes.subarray(start) }
}

/** Of a frame up to `end`, leaving itself out. */
const checksum = (frame: Uint8Array, end: number): number =>
  crc32(frame.subarray(PRELUDE_BYTES, end), crc32(frame.subarray(0, CHECKSUM_AT)))

const hasChecksum = (header: unknown): boolean => typeof header === 'object' && header !== null && 'crc32' in header

/** Where the header ends and the payload starts, once all lengths agree with the bytes that are there and these with their sum. */
function checkPrelude(
  bytes: Uint8Array,
  maxFrameBytes: number,
): { headerEnd: number; start: number; payloadCovered: boolean } {
  if (bytes.length > maxFrameBytes) throw oversized(`the frame has ${bytes.length} bytes`)
  if (bytes.length < PRELUDE_BYTES) throw truncated(bytes.length, PRELUDE_BYTES)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.getUint32(0, true) !== MAGIC)
    throw new HeadraceError('frame_bad_magic', 'the bytes do not start with "HDRC"')
  const version = view.getUint16(4, true)
  if (version !== FRAME_VERSION)
    throw new HeadraceError('frame_bad_version', `frame version ${version}, here ${FRAME_VERSION}`)
  const covers = view.getUint16(6, true)
  if (covers > 1) throw badHeader('nobody knows what its checksum covers')
  const headerBytes = view.getUint32(8, true)
  if (headerBytes > MAX_HEADER_BYTES) throw oversized(`the header has ${headerBytes} bytes`)
  const start = payloadStart(headerBytes)
  const total = start + view.getUint32(12, true)
  if (total > maxFrameBytes) throw oversized(`the frame has ${total} bytes`)
  if (bytes.length < total) throw truncated(bytes.length, total)
  if (bytes.length > total) throw badHeader(`${bytes.length - total} bytes follow its payload`)
  if (view.getUint32(CHECKSUM_AT, true) !== checksum(bytes, covers === 1 ? total : start))
    throw new HeadraceError('frame_damaged', 'the frame is not what was sent')
  return { headerEnd: PRELUDE_BYTES + headerBytes, start, payloadCovered: covers === 1 }
}

function payloadStart(headerBytes: number): number {
  return Math.ceil((PRELUDE_BYTES + headerBytes) / ALIGNMENT) * ALIGNMENT
}

function unpack(packed: Uint8Array): unknown {
  try {
    return decode(packed, { codec })
  } catch (thrown) {
    // The scan lets nothing through that is known to make the library throw; what is unknown must not end the process.
    throw new HeadraceError('frame_bad_header', 'the header cannot be unpacked', { cause: thrown })
  }
}

/** An absent field, as TypeScript has it. The library would write it as nil, which no schema takes for absent. */
function withoutUndefined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutUndefined)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, v]) => (v === undefined ? [] : [[key, withoutUndefined(v)]])),
  )
}

function truncated(present: number, expected: number): HeadraceError {
  return new HeadraceError('frame_truncated', `the frame has ${present} of ${expected} bytes`)
}

function oversized(what: string): HeadraceError {
  return new HeadraceError('frame_oversized', `${what}, more than the limit`)
}

function badHeader(what: string): HeadraceError {
  return new HeadraceError('frame_bad_header', `the frame is malformed: ${what}`)
}
