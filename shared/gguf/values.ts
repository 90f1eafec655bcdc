import { type Cursor, decodeText, malformed } from './cursor.ts'

export type GgufValue = number | boolean | string | GgufTexts | GgufNumbers

/** Texts are decoded when they are asked for: a worker needs none of a vocabulary's hundred thousands. */
interface GgufTexts {
  readonly kind: 'texts'
  readonly count: number
  decode(): string[]
}
interface GgufNumbers {
  readonly kind: 'numbers'
  readonly values: ArrayLike<number>
}

/** A chat template is the longest text there is. */
const MAX_TEXT_BYTES = 16 << 20
const MAX_ELEMENTS = 1 << 28

/** `gguf_metadata_value_type`, scalars that are no text or array. */
const SCALARS: Readonly<Record<number, (cursor: Cursor) => number | boolean>> = {
  0: (cursor) => cursor.u8(),
  1: (cursor) => cursor.i8(),
  2: (cursor) => cursor.u16(),
  3: (cursor) => cursor.i16(),
  4: (cursor) => cursor.u32(),
  5: (cursor) => cursor.i32(),
  6: (cursor) => shortestDecimal(cursor.f32()),
  7: (cursor) => cursor.u8() !== 0,
  10: (cursor) => Number(cursor.u64()),
  11: (cursor) => Number(cursor.i64()),
  12: (cursor) => cursor.f64(),
}
const TEXT = 8
const ARRAY = 9

const NUMBER_ARRAYS = {
  0: Uint8Array,
  1: Int8Array,
  2: Uint16Array,
  3: Int16Array,
  4: Uint32Array,
  5: Int32Array,
  6: Float32Array,
  7: Uint8Array,
  10: BigUint64Array,
  11: BigInt64Array,
  12: Float64Array,
} as const

export function readValue(cursor: Cursor, type: number): GgufValue {
  if (type === TEXT) return cursor.text(MAX_TEXT_BYTES)
  if (type === ARRAY) return readArray(cursor)
  const scalar = SCALARS[type]
  if (scalar === undefined) throw malformed(cursor.file, `a value has the type ${type}`)
  return scalar(cursor)
}

function readArray(cursor: Cursor): GgufTexts | GgufNumbers {
  const type = cursor.u32()
  const count = cursor.count(MAX_ELEMENTS, 'elements of an array')
  if (type === TEXT) return readTexts(cursor, count)
  if (!Object.hasOwn(NUMBER_ARRAYS, type)) throw malformed(cursor.file, `an array has elements of the type ${type}`)
  const Numbers = NUMBER_ARRAYS[type as keyof typeof NUMBER_ARRAYS]
  const bytes = cursor.take(count * Numbers.BYTES_PER_ELEMENT)
  const values = new Numbers(bytes.slice().buffer) // a copy lies aligned
  const plain = values instanceof BigUint64Array || values instanceof BigInt64Array
  return { kind: 'numbers', values: plain ? Float64Array.from(values, Number) : values }
}

function readTexts(cursor: Cursor, count: number): GgufTexts {
  const { file } = cursor
  const start = cursor.at
  for (let i = 0; i < count; i++) cursor.skip(cursor.textLength(MAX_TEXT_BYTES))
  const end = cursor.at
  cursor.at = start
  const bytes = cursor.take(end - start)
  return {
    kind: 'texts',
    count,
    decode() {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const texts: string[] = []
      for (let at = 0; at < bytes.length; ) {
        const length = Number(view.getBigUint64(at, true))
        texts.push(decodeText(bytes.subarray(at + 8, at + 8 + length), file))
        at += 8 + length
      }
      return texts
    },
  }
}

/** What a float32 was written for: 1e-5, not 0.00000999999974737875. */
export function shortestDecimal(single: number): number {
  for (let digits = 6; digits < 9; digits++) {
    const decimal = Number(single.toPrecision(digits))
    if (Math.fround(decimal) === single) return decimal
  }
  return single
}
