/** The part of the protobuf wire format (protobuf.dev/programming-guides/encoding) that an ONNX model needs. */
export type Field = Uint8Array

const VARINT = 0
const BYTES = 2
const FIXED32 = 5

export const intField = (number: number, value: number): Field => join([varint((number << 3) | VARINT), varint(value)])

export function floatField(number: number, value: number): Field {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setFloat32(0, value, true)
  return join([varint((number << 3) | FIXED32), bytes])
}

export const bytesField = (number: number, bytes: Uint8Array): Field =>
  join([varint((number << 3) | BYTES), varint(bytes.length), bytes])

export const textField = (number: number, text: string): Field => bytesField(number, new TextEncoder().encode(text))

export const messageField = (number: number, fields: readonly Field[]): Field => bytesField(number, join(fields))

export function join(fields: readonly Field[]): Uint8Array {
  const joined = new Uint8Array(fields.reduce((sum, field) => sum + field.length, 0))
  let at = 0
  for (const field of fields) {
    joined.set(field, at)
    at += field.length
  }
  return joined
}

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
