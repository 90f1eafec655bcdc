import assert from 'node:assert/strict'
import type { z } from 'zod'
import type { ErrorCode } from '../../../shared/errors.ts'
import { decodeFrame, encodeFrame, MAX_HEADER_BYTES } from '../../../shared/protocol/frame.ts'
import { decodeMessage, encodeMessage } from '../../../shared/protocol/messages.ts'
import { rawFrame, sumOf } from '../../support/raw-frame.ts'
import { FAMILIES, SAMPLES } from '../../support/sample-messages.ts'
import { valuesOf } from '../../support/schema-arbitrary.ts'
import { broken, damaged, STRANGERS } from '../damage.ts'
import type { Dice } from '../dice.ts'
import { packed, Raw, unpacked } from '../pack.ts'
import { outcome, type Target } from '../target.ts'

/** What the wire carries: frames as bytes, and the messages of all four families in them. */

export const FRAME_CODES: ReadonlySet<ErrorCode> = new Set([
  'frame_damaged',
  'frame_truncated',
  'frame_oversized',
  'frame_bad_magic',
  'frame_bad_version',
  'frame_bad_header',
  'frame_too_deep',
  'frame_bad_schema',
] as const)

const MAX_FRAME_BYTES = 2 ** 17

/** First bytes of every MessagePack type, forbidden keys, lengths at the edges. */
export const WORDS: readonly Uint8Array[] = [
  ...[0x80, 0x81, 0x8f, 0x90, 0x91, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xc3].map((byte) => [byte]),
  ...[0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xcb, 0xcc, 0xcd, 0xce, 0xcf].map((byte) => [byte, 0, 1]),
  ...[0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xdb].map((byte) => [byte, 0, 1]),
  ...[0xdc, 0xdd, 0xde, 0xdf].map((byte) => [byte, 0xff, 0xff, 0xff, 0xff]),
  [0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
  [0xcb, 0x80, 0, 0, 0, 0, 0, 0, 0],
  [0x91, 0x91, 0x91, 0x91, 0x91],
  [0xa2, 0xc0, 0xaf],
  [0xa3, 0xed, 0xa0, 0x80],
  [0xa9, ...Buffer.from('__proto__')],
  [0xab, ...Buffer.from('constructor')],
  [0xa4, ...Buffer.from('kind')],
].map((bytes) => Uint8Array.from(bytes))

/** Beside the values of JSON: types that MessagePack has and the protocol does not, and numbers that are none. */
const MESSAGE_STRANGERS: readonly unknown[] = [
  ...STRANGERS,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  -0,
  new Raw(0xc1),
  new Raw(0xc4, 1, 0),
  new Raw(0xc7, 1, 1, 0),
  new Raw(0xd4, 0, 0),
  new Raw(0xd6, 0xff, 0, 0, 0, 0),
  new Raw(0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
  new Raw(0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0),
  new Raw(0xdd, 0xff, 0xff, 0xff, 0xff),
  new Raw(0x81, 1, 1),
  new Raw(0xa2, 0xc0, 0xaf),
]

/** Bytes around a frame and in its header. */
export const frames: Target = {
  name: 'frames',
  weight: 30,
  open: async () => {
    const samples = SAMPLES.map(({ schema, message, payload }) => encodeMessage(schema, message, payload))
    return { input: (dice) => damagedFrame(dice, dice.oneOf(samples)), take: takeFrame }
  },
}

/** Messages that a schema allows, of every kind, with values in them changed before they are packed. */
export const messages: Target = {
  name: 'messages',
  weight: 30,
  open: async () => {
    const pools = Object.values(FAMILIES).map((schema) => [
      ...SAMPLES.filter((sample) => sample.schema === schema).map(({ message }) => message),
      ...valuesOf(schema, 1500),
    ])
    return { input: (dice) => hostileMessage(dice, dice.oneOf(pools)), take: takeMessage }
  },
}

function damagedFrame(dice: Dice, frame: Uint8Array): Uint8Array {
  const kind = dice.below(20)
  if (kind === 0) return dice.bytes(dice.few(300))
  if (kind === 1) return rawFrame({ header: dice.bytes(dice.few(200)), payload: dice.bytes(dice.few(40)) })
  if (kind < 3) return damaged(dice, frame, WORDS)
  if (kind < 8) return summed(damaged(dice, frame, WORDS))
  // Damage to the frame itself hides the rest, so most damage is in a header of a frame that is else right.
  const header = frame.subarray(20, 20 + new DataView(frame.buffer, frame.byteOffset).getUint32(8, true))
  return rawFrame({ header: damaged(dice, header, WORDS), payload: dice.bytes(dice.few(40)) })
}

/** With the sum of what it is now: what hides behind a wrong one is never looked at. */
function summed(frame: Uint8Array): Uint8Array {
  if (frame.length < 20) return frame
  const copy = frame.slice()
  new DataView(copy.buffer).setUint32(16, sumOf(copy), true)
  return copy
}

/** Also used by the targets that send sequences of them. */
export function hostileMessage(dice: Dice, pool: readonly unknown[]): Uint8Array {
  const message = dice.oneOf(pool)
  const kind = dice.below(10)
  const told = kind === 0 ? message : broken(dice, message, MESSAGE_STRANGERS)
  const header = packed(dice, told)
  const payload = dice.chance(0.2) ? dice.bytes(dice.few(100)) : new Uint8Array(0)
  return rawFrame({ header: kind === 1 ? damaged(dice, header, WORDS) : header, payload })
}

/** What the scan lets through, the library reads, as the specification says, and it can be written and read again. */
function takeFrame(input: Uint8Array): string {
  return outcome(FRAME_CODES, () => {
    const { header, payload } = decoded(() => decodeFrame(input, MAX_FRAME_BYTES))
    const headerBytes = new DataView(input.buffer, input.byteOffset).getUint32(8, true)
    same(header, unpacked(input.subarray(20, 20 + headerBytes)))
    if (typeof header !== 'object' || header === null) return
    const again = encodeFrame(header, payload)
    same(decodeFrame(again, MAX_FRAME_BYTES + MAX_HEADER_BYTES).header, header)
  })
}

function takeMessage(input: Uint8Array): string {
  const outcomes = Object.values(FAMILIES).map((schema) => outcome(FRAME_CODES, () => takeAs(schema, input)))
  return outcomes.find((each) => each === 'ok') ?? outcomes[0]!
}

function takeAs(schema: z.ZodType<object, object>, input: Uint8Array): void {
  const { message, payload } = decoded(() => decodeMessage(schema, input, MAX_FRAME_BYTES))
  assert.equal(Object.getPrototypeOf(message), Object.prototype)
  assert.equal(payload.buffer, input.buffer, 'the payload is a copy')
  const again = decodeMessage(schema, encodeMessage(schema, message, payload), 2 * MAX_FRAME_BYTES)
  same(again.message, message)
  assert.ok(Buffer.from(again.payload).equals(payload))
}

/** An error that has a cause is one that the library threw: the scan should have known better. */
function decoded<T>(decode: () => T): T {
  try {
    return decode()
  } catch (thrown) {
    assert.equal((thrown as Error).cause, undefined, 'the scan let through what the library cannot read')
    throw thrown
  }
}

/** The wire has one zero, and one that is not a number. */
function same(actual: unknown, expected: unknown): void {
  const plain = (value: unknown) =>
    JSON.stringify(value, (_key, v: unknown) =>
      typeof v === 'number' && !Number.isFinite(v) ? `number ${v}` : Object.is(v, -0) ? 0 : v,
    )
  assert.equal(plain(actual), plain(expected))
}
