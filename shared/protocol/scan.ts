import { HeadraceError } from '../errors.ts'

/**
 * Looks through the MessagePack of a header before the decoder sees it. The decoder recurses without bound and believes
 * lengths (CVE-2026-38357), so everything it could trip over is refused here, in one pass, without recursion and without
 * allocating by a number that the peer chose.
 */

export const MAX_DEPTH = 4
export const MAX_ITEMS = 10_000

/** These keys reach the prototype of the object that the decoder builds. */
const FORBIDDEN_KEYS: ReadonlySet<string> = new Set(['__proto__', 'constructor', 'prototype'])
const SHORTEST_FORBIDDEN_KEY = 9
const LONGEST_FORBIDDEN_KEY = 11

type Kind = 'scalar' | 'string' | 'array' | 'map'

/** One value: its own bytes end at `end` (for an array or map, where its first child starts), and `children` follow. */
interface Item {
  readonly kind: Kind
  readonly end: number
  readonly children: number
}

/** An array or map that still lacks children. In a map an even number left means that a key comes next. */
interface Level {
  readonly isMap: boolean
  left: number
}

/** Throws `frame_too_deep` or `frame_bad_header` unless `bytes` are exactly one value that the protocol allows. */
export function scanHeader(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const open: Level[] = []
  let offset = 0
  let items = 0
  do {
    items += 1
    if (items > MAX_ITEMS) throw bad(`more than ${MAX_ITEMS} items`)
    const item = itemAt(view, offset)
    if (item.kind === 'string') checkText(bytes, offset, item.end)
    const level = open.at(-1)
    if (level !== undefined) {
      if (level.isMap && level.left % 2 === 0) checkKey(bytes, offset, item)
      level.left -= 1
    }
    if (item.kind === 'array' || item.kind === 'map') {
      if (open.length === MAX_DEPTH)
        throw new HeadraceError('frame_too_deep', `the header nests deeper than ${MAX_DEPTH} levels`)
      open.push({ isMap: item.kind === 'map', left: item.children })
    }
    while (open.at(-1)?.left === 0) open.pop()
    offset = item.end
  } while (open.length > 0)
  if (offset !== bytes.length) throw bad('bytes after its end')
}

/** Byte values as in the MessagePack specification; `bin` and `ext` have no place in a header. */
function itemAt(view: DataView, offset: number): Item {
  const left = view.byteLength - offset - 1
  if (left < 0) throw bad('it is cut short')
  const type = view.getUint8(offset)
  const body = offset + 1
  if (type <= 0x7f || type >= 0xe0) return scalar(body, 0, left)
  if (type <= 0x8f) return container('map', body, type & 0x0f, left)
  if (type <= 0x9f) return container('array', body, type & 0x0f, left)
  if (type <= 0xbf) return string(body, type & 0x1f, left)
  switch (type) {
    case 0xc0: // nil
    case 0xc2: // false
    case 0xc3: // true
      return scalar(body, 0, left)
    case 0xcc: // uint 8
    case 0xd0: // int 8
      return scalar(body, 1, left)
    case 0xcd: // uint 16
    case 0xd1: // int 16
      return scalar(body, 2, left)
    case 0xca: // float 32
    case 0xce: // uint 32
    case 0xd2: // int 32
      return scalar(body, 4, left)
    case 0xcb: // float 64
      return scalar(body, 8, left)
    case 0xcf: // uint 64
    case 0xd3: // int 64
      return safeInteger(view, type, body, left)
    case 0xd9:
    case 0xda:
    case 0xdb: {
      const size = 1 << (type - 0xd9)
      return string(body + size, lengthAt(view, body, size, left), left - size)
    }
    case 0xdc:
    case 0xdd: {
      const size = 2 << (type - 0xdc)
      return container('array', body + size, lengthAt(view, body, size, left), left - size)
    }
    case 0xde:
    case 0xdf: {
      const size = 2 << (type - 0xde)
      return container('map', body + size, lengthAt(view, body, size, left), left - size)
    }
    default:
      throw bad(`a value of type 0x${type.toString(16)}`)
  }
}

/** A length of 1, 2 or 4 bytes. */
function lengthAt(view: DataView, offset: number, size: number, left: number): number {
  if (size > left) throw bad('it is cut short')
  return size === 1 ? view.getUint8(offset) : size === 2 ? view.getUint16(offset) : view.getUint32(offset)
}

function scalar(start: number, size: number, left: number): Item {
  if (size > left) throw bad('it is cut short')
  return { kind: 'scalar', end: start + size, children: 0 }
}

function string(start: number, length: number, left: number): Item {
  if (length > left) throw bad('a string is longer than the header')
  return { kind: 'string', end: start + length, children: 0 }
}

/** Every child takes a byte at least. */
function container(kind: 'array' | 'map', start: number, count: number, left: number): Item {
  const children = kind === 'map' ? 2 * count : count
  if (children > left) throw bad(`more values in a ${kind} than the header has bytes`)
  return { kind, end: start, children }
}

/** Beyond 2^53 the decoder would round, and two sides would disagree on a number without noticing. */
function safeInteger(view: DataView, type: number, start: number, left: number): Item {
  const item = scalar(start, 8, left)
  const value = type === 0xcf ? view.getBigUint64(start) : view.getBigInt64(start)
  if (!Number.isSafeInteger(Number(value))) throw bad('an integer that is not safe')
  return item
}

const utf8 = new TextDecoder('utf-8', { fatal: true })

/** The decoder makes something of any bytes; what is no UTF-8 would be one text here and another one elsewhere. */
function checkText(bytes: Uint8Array, start: number, end: number): void {
  let at = start + 1
  while (at < end && bytes[at]! <= 0x7f) at++
  if (at === end) return
  try {
    utf8.decode(bytes.subarray(textStart(bytes, start), end))
  } catch {
    throw bad('a string that is not UTF-8')
  }
}

/** Behind a string's type and length. */
function textStart(bytes: Uint8Array, offset: number): number {
  const type = bytes[offset]
  return offset + (type === 0xdb ? 5 : type === 0xda ? 3 : type === 0xd9 ? 2 : 1)
}

/** Only ASCII, because a lenient decoder reads an overlong encoding of `__proto__` as that name. */
function checkKey(bytes: Uint8Array, offset: number, item: Item): void {
  if (item.kind !== 'string') throw bad('a key that is not a string')
  const start = textStart(bytes, offset)
  for (let i = start; i < item.end; i++) if (bytes[i]! > 0x7f) throw bad('a key that is not ASCII')
  const length = item.end - start
  if (length < SHORTEST_FORBIDDEN_KEY || length > LONGEST_FORBIDDEN_KEY) return
  if (FORBIDDEN_KEYS.has(String.fromCharCode(...bytes.subarray(start, item.end))))
    throw bad('a key that names a prototype')
}

function bad(what: string): HeadraceError {
  return new HeadraceError('frame_bad_header', `the header is not as the protocol allows: ${what}`)
}
