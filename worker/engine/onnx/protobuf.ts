/**
 * The part of the protobuf wire format (protobuf.dev/programming-guides/encoding) that an ONNX model needs. A field is
 * the pieces it is made of, one after the other: weights are not copied until the whole model is.
 */
export type Field = readonly Uint8Array[]

const VARINT = 0
const BYTES = 2
const FIXED32 = 5

export const intField = (number: number, value: number): Field => [varint((number << 3) | VARINT), varint(value)]

export function floatField(number: number, value: number): Field {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setFloat32(0, value, true)
  return [varint((number << 3) | FIXED32), bytes]
}

export const bytesField = (number: number, bytes: Uint8Array): Field => messageField(number, [[bytes]])

export const textField = (number: number, text: string): Field => bytesField(number, new TextEncoder().encode(text))

export function messageField(number: number, fields: readonly Field[]): Field {
  const pieces = fields.flat()
  return [varint((number << 3) | BYTES), varint(byteLength(pieces)), ...pieces]
}

export function join(fields: readonly Field[]): Uint8Array {
  const pieces = fields.flat()
  const joined = new Uint8Array(byteLength(pieces))
  let at = 0
  for (const piece of pieces) {
    joined.set(piece, at)
    at += piece.length
  }
  return joined
}

const byteLength = (pieces: Field): number => pieces.reduce((sum, piece) => sum + piece.length, 0)

/** Negative numbers are 64-bit two's complement: ten bytes. */
function varint(value: number): Uint8Array {
  const bytes: number[] = []
  let rest = BigInt.asUintN(64, BigInt(value))
  while (rest > 127n) {
    bytes.push(Number(rest & 127n) | 128)
    rest >>= 7n
  }
  bytes.push(Number(rest))
  return Uint8Array.from(bytes)
}
