import { crc32 } from 'node:zlib'

/** A frame written by hand, so that each of its fields can be wrong. */
export interface RawFrame {
  readonly header: Uint8Array
  readonly payload?: Uint8Array
  readonly magic?: string
  readonly version?: number
  readonly covers?: number
  readonly checksum?: number
  readonly headerLength?: number
  readonly payloadLength?: number
  readonly padding?: number
}

export function rawFrame(fields: RawFrame): Uint8Array<ArrayBuffer> {
  const { header, payload = new Uint8Array(0) } = fields
  const start = Math.ceil((20 + header.length) / 64) * 64
  const frame = new Uint8Array(start + payload.length).fill(fields.padding ?? 0)
  const view = new DataView(frame.buffer)
  frame.set(new TextEncoder().encode(fields.magic ?? 'HDRC'))
  view.setUint16(4, fields.version ?? 2, true)
  view.setUint16(6, fields.covers ?? 1, true)
  view.setUint32(8, fields.headerLength ?? header.length, true)
  view.setUint32(12, fields.payloadLength ?? payload.length, true)
  frame.set(header, 20)
  frame.set(payload, start)
  const covered = fields.covers === 0 ? start : frame.length
  view.setUint32(16, fields.checksum ?? sumOf(frame, covered), true)
  return frame
}

/** The checksum of a frame's first `end` bytes: all but the four that it takes itself. */
export const sumOf = (frame: Uint8Array, end = frame.length): number =>
  crc32(frame.subarray(20, end), crc32(frame.subarray(0, 16)))

export const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'))
export const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
