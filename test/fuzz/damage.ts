import type { Dice } from './dice.ts'

/** Damage to bytes and to values, for any format. */

type Bytes = Uint8Array<ArrayBuffer>

/** One to three changes: bits, bytes, words of the format, pieces cut out, doubled, moved, or the end cut off. */
export function damaged(dice: Dice, original: Uint8Array, words: readonly Uint8Array[]): Bytes {
  let bytes: Bytes = Uint8Array.from(original)
  for (let left = 1 + dice.below(3); left > 0; left--) bytes = changedOnce(dice, bytes, words)
  return bytes
}

function changedOnce(dice: Dice, bytes: Bytes, words: readonly Uint8Array[]): Bytes {
  const at = dice.below(bytes.length + 1)
  const piece = bytes.slice(at, at + dice.few(64))
  switch (dice.below(9)) {
    case 0:
      return spliced(bytes, at, 1, dice.bytes(1))
    case 1:
      return spliced(bytes, at, 1, [(bytes[at] ?? 0) ^ (1 << dice.below(8))])
    case 2:
      return spliced(bytes, at, 1, dice.oneOf(words))
    case 3:
      return spliced(bytes, at, 0, dice.oneOf(words))
    case 4:
      return spliced(bytes, at, 1 + dice.few(16), [])
    case 5:
      return spliced(bytes, at, 0, piece)
    case 6:
      return spliced(bytes, dice.below(bytes.length + 1), piece.length, piece)
    case 7:
      return spliced(bytes, at, 4, dice.oneOf(EXTREMES))
    default:
      return dice.chance(0.3) ? bytes.slice(0, at) : spliced(bytes, at, 1, [dice.oneOf([0, 1, 0x7f, 0x80, 0xff])])
  }
}

/** Lengths and counts at their edges, in both byte orders. */
const EXTREMES = [
  [0xff, 0xff, 0xff, 0xff],
  [0x7f, 0xff, 0xff, 0xff],
  [0xff, 0xff, 0xff, 0x7f],
  [0, 0, 0, 1],
  [1, 0, 0, 0],
  [0, 0, 1, 0],
  [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0, 0, 0, 0, 0, 0, 0x10, 0],
].map((bytes) => Uint8Array.from(bytes))

function spliced(bytes: Bytes, at: number, remove: number, insert: ArrayLike<number>): Bytes {
  const tail = bytes.subarray(Math.min(at + remove, bytes.length))
  const result = new Uint8Array(at + insert.length + tail.length)
  result.set(bytes.subarray(0, at))
  result.set(insert, at)
  result.set(tail, at + insert.length)
  return result
}

/** A container in a value and one of its places. */
interface Place {
  readonly holder: Record<string, unknown>
  readonly key: string
}

/** A copy of `value` with up to three places changed: taken out, doubled, renamed, put deeper, or something else instead. */
export function broken(dice: Dice, value: unknown, strangers: readonly unknown[]): unknown {
  const root = { value: copied(value) }
  for (let left = 1 + dice.few(3); left > 0; left--) breakOne(dice, root, strangers)
  return root.value
}

function breakOne(dice: Dice, root: object, strangers: readonly unknown[]): void {
  const places = placesIn(root)
  const { holder, key } = dice.oneOf(places)
  const held = holder[key]
  switch (dice.below(7)) {
    case 0:
      if (Array.isArray(holder)) holder.splice(Number(key), 1)
      else if (holder !== root) delete holder[key]
      return
    case 1:
      if (Array.isArray(holder)) holder.splice(Number(key), 0, copied(held))
      else put(holder, dice.oneOf(KEYS), held)
      return
    case 2:
      if (dice.chance(0.5)) holder[key] = [held]
      else put(holder, key, deeper(dice.oneOf(KEYS), held))
      return
    case 3: {
      const other = dice.oneOf(places)
      holder[key] = copied(other.holder[other.key])
      return
    }
    case 4:
      holder[key] = nudged(dice, held)
      return
    default:
      holder[key] = copied(dice.oneOf(strangers))
  }
}

/** Every place below `root`; what a stranger holds is left alone. */
function placesIn(root: object): Place[] {
  const places: Place[] = []
  const waiting: object[] = [root]
  for (let holder = waiting.pop(); holder; holder = waiting.pop()) {
    for (const [key, value] of (Array.isArray(holder) || isPlain(holder)) && places.length < 2000
      ? Object.entries(holder)
      : []) {
      places.push({ holder: holder as Record<string, unknown>, key })
      if (typeof value === 'object' && value !== null) waiting.push(value)
    }
  }
  return places
}

/** Something near the value: what is off by one finds other faults than what is far off. */
function nudged(dice: Dice, value: unknown): unknown {
  if (typeof value === 'number')
    return dice.oneOf([value + 1, value - 1, -value, value * 2, value / 2, value * 2 ** 20])
  if (typeof value === 'string') {
    const at = dice.below(value.length + 1)
    return value.slice(0, at) + dice.oneOf(['', value, '\ud800', '\0', 'é', '%00', '../']) + value.slice(at + 1)
  }
  if (Array.isArray(value)) return dice.chance(0.5) ? [...value, ...value] : [...value].reverse()
  return typeof value === 'boolean' ? !value : value
}

function deeper(key: string, value: unknown): object {
  const outer = {}
  put(outer, key, value)
  return outer
}

/** Plain values anew, since they will be changed; anything else is the same. */
function copied(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(copied)
  if (!isPlain(value)) return value
  const copy = {}
  for (const [key, held] of Object.entries(value)) put(copy, key, copied(held))
  return copy
}

const isPlain = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype

/** `__proto__` as a key of its own, which an assignment would not make. */
function put(holder: Record<string, unknown>, key: string, value: unknown): void {
  Object.defineProperty(holder, key, { value, enumerable: true, configurable: true, writable: true })
}

const KEYS = ['__proto__', 'constructor', 'prototype', 'toString', 'length', 'kind', 'type', '0', '']

/** Values of JSON that a schema may not have thought of. */
export const STRANGERS: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  0.5,
  1e-320,
  1e308,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  -(2 ** 53),
  '',
  '\0',
  '__proto__',
  'toString',
  'NaN',
  '\ud83d',
  'a'.repeat(3000),
  [],
  {},
  [[]],
  { length: { toString: 4 } },
  { length: 3, 0: 'a' },
  Array.from({ length: 300 }, () => 0),
  Array.from({ length: 40 }).reduce((inner) => [inner], []),
]
