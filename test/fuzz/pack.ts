import type { Dice } from './dice.ts'

/** Bytes that stand in a value where MessagePack of something would. */
export class Raw {
  readonly bytes: Uint8Array

  constructor(...bytes: number[]) {
    this.bytes = Uint8Array.from(bytes)
  }
}

/**
 * MessagePack as a peer could write it that is not ours: any of the spellings of a number or length that the format has,
 * not the shortest always, keys in any order and twice, and `Raw` bytes between.
 */
export function packed(dice: Dice, value: unknown): Uint8Array {
  const out: number[] = []
  put(dice, out, value)
  return Uint8Array.from(out)
}

function put(dice: Dice, out: number[], value: unknown): void {
  if (value instanceof Raw) out.push(...value.bytes)
  else if (value === null || value === undefined) out.push(0xc0)
  else if (typeof value === 'boolean') out.push(value ? 0xc3 : 0xc2)
  else if (typeof value === 'number') putNumber(dice, out, value)
  else if (typeof value === 'string') putString(dice, out, value)
  else if (Array.isArray(value)) {
    putLength(dice, out, value.length, { small: 0x90, most: 15, wide: [0xdc, 0xdd], first: 2 })
    for (const item of value) put(dice, out, item)
  } else {
    const entries = Object.entries(value as object).filter(([, held]) => held !== undefined)
    putLength(dice, out, entries.length, { small: 0x80, most: 15, wide: [0xde, 0xdf], first: 2 })
    for (const [key, held] of entries) {
      putString(dice, out, key)
      put(dice, out, held)
    }
  }
}

function putString(dice: Dice, out: number[], text: string): void {
  const bytes = Buffer.from(text)
  putLength(dice, out, bytes.length, { small: 0xa0, most: 31, wide: [0xd9, 0xda, 0xdb], first: 1 })
  out.push(...bytes)
}

/** `first`: the bytes of the first of the `wide` spellings, each of the next has twice as many. */
interface Spelling {
  readonly small: number
  readonly most: number
  readonly wide: readonly number[]
  readonly first: number
}

function putLength(dice: Dice, out: number[], length: number, { small, most, wide, first }: Spelling): void {
  if (length <= most && !dice.chance(0.03)) {
    out.push(small | length)
    return
  }
  const fitting = wide.map((type, i) => ({ type, bytes: first << i })).filter(({ bytes }) => length < 256 ** bytes)
  const { type, bytes } = dice.chance(0.9) ? fitting[0]! : dice.oneOf(fitting)
  out.push(type)
  for (let shift = bytes - 1; shift >= 0; shift--) out.push(Math.floor(length / 256 ** shift) & 0xff)
}

function putNumber(dice: Dice, out: number[], value: number): void {
  const spellings = SPELLINGS.filter(({ fits }) => fits(value))
  const { type, bytes, write } = dice.chance(0.9) ? spellings[0]! : dice.oneOf(spellings)
  const view = new DataView(new ArrayBuffer(bytes))
  write(view, value)
  out.push(...(type < 0 ? [] : [type]), ...new Uint8Array(view.buffer))
}

/** Shortest first; a type below zero is none: the number is its own. */
const SPELLINGS: readonly {
  type: number
  bytes: number
  fits: (value: number) => boolean
  write: (view: DataView, value: number) => void
}[] = [
  { type: -1, bytes: 1, fits: within(-32, 127), write: (view, value) => view.setInt8(0, value) },
  { type: 0xcc, bytes: 1, fits: within(0, 0xff), write: (view, value) => view.setUint8(0, value) },
  { type: 0xd0, bytes: 1, fits: within(-128, 127), write: (view, value) => view.setInt8(0, value) },
  { type: 0xcd, bytes: 2, fits: within(0, 0xffff), write: (view, value) => view.setUint16(0, value) },
  { type: 0xd1, bytes: 2, fits: within(-0x8000, 0x7fff), write: (view, value) => view.setInt16(0, value) },
  { type: 0xce, bytes: 4, fits: within(0, 0xffffffff), write: (view, value) => view.setUint32(0, value) },
  { type: 0xd2, bytes: 4, fits: within(-(2 ** 31), 2 ** 31 - 1), write: (view, value) => view.setInt32(0, value) },
  {
    type: 0xcf,
    bytes: 8,
    fits: within(0, 2 ** 64 - 2 ** 12),
    write: (view, value) => view.setBigUint64(0, BigInt(value)),
  },
  {
    type: 0xd3,
    bytes: 8,
    fits: within(-(2 ** 63), 2 ** 62),
    write: (view, value) => view.setBigInt64(0, BigInt(value)),
  },
  { type: 0xcb, bytes: 8, fits: () => true, write: (view, value) => view.setFloat64(0, value) },
  { type: 0xca, bytes: 4, fits: () => true, write: (view, value) => view.setFloat32(0, value) },
]

function within(least: number, most: number): (value: number) => boolean {
  return (value) => Number.isInteger(value) && value >= least && value <= most
}

/**
 * Reads what the protocol allows of MessagePack, straight from the format's specification: a second opinion on what the
 * library makes of the same bytes. The bytes have passed the scan.
 */
export function unpacked(bytes: Uint8Array): unknown {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 0
  const uint = (size: number): number => {
    at += size
    return size === 1 ? view.getUint8(at - 1) : size === 2 ? view.getUint16(at - 2) : view.getUint32(at - 4)
  }
  const skip = (size: number): number => {
    at += size
    return at - size
  }
  const text = (length: number): string => {
    at += length
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes.subarray(at - length, at))
  }
  const list = (length: number): unknown[] => Array.from({ length }, next)
  const map = (length: number): object => Object.fromEntries(Array.from({ length }, () => [next(), next()]))
  function next(): unknown {
    const type = uint(1)
    if (type <= 0x7f) return type
    if (type >= 0xe0) return type - 256
    if (type <= 0x8f) return map(type & 15)
    if (type <= 0x9f) return list(type & 15)
    if (type <= 0xbf) return text(type & 31)
    const read = READERS[type]
    if (read === undefined) throw new TypeError(`type 0x${type.toString(16)} passed the scan`)
    return read({ view, uint, text, list, map, skip })
  }
  return next()
}

interface Reading {
  readonly view: DataView
  readonly uint: (size: number) => number
  readonly text: (length: number) => string
  readonly list: (length: number) => unknown[]
  readonly map: (length: number) => object
  /** Where the next `size` bytes are, which are read by that. */
  readonly skip: (size: number) => number
}

const READERS: Readonly<Record<number, (from: Reading) => unknown>> = {
  192: () => null,
  194: () => false,
  195: () => true,
  202: ({ view, skip }) => view.getFloat32(skip(4)),
  203: ({ view, skip }) => view.getFloat64(skip(8)),
  204: ({ uint }) => uint(1),
  205: ({ uint }) => uint(2),
  206: ({ uint }) => uint(4),
  207: ({ view, skip }) => Number(view.getBigUint64(skip(8))),
  208: ({ view, skip }) => view.getInt8(skip(1)),
  209: ({ view, skip }) => view.getInt16(skip(2)),
  210: ({ view, skip }) => view.getInt32(skip(4)),
  211: ({ view, skip }) => Number(view.getBigInt64(skip(8))),
  217: ({ uint, text }) => text(uint(1)),
  218: ({ uint, text }) => text(uint(2)),
  219: ({ uint, text }) => text(uint(4)),
  220: ({ uint, list }) => list(uint(2)),
  221: ({ uint, list }) => list(uint(4)),
  222: ({ uint, map }) => map(uint(2)),
  223: ({ uint, map }) => map(uint(4)),
}
