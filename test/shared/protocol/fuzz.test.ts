import assert from 'node:assert/strict'
import { it } from 'node:test'
import type { z } from 'zod'
import { HeadraceError } from '../../../shared/errors.ts'
import { decodeMessage, encodeMessage } from '../../../shared/protocol/messages.ts'
import { randomInt, seededRandom } from '../../support/random.ts'
import { rawFrame } from '../../support/raw-frame.ts'
import { FAMILIES, SAMPLES } from '../../support/sample-messages.ts'

const INPUTS = 100_000
const SEED = 20_261_122
const LIMIT = 4096

const random = seededRandom(SEED)
const below = (n: number) => randomInt(random, n)
const oneOf = <T>(choices: readonly T[]): T => choices[below(choices.length)]!

/** First bytes of every MessagePack type with a length, keys that are forbidden, and lengths at the edges. */
const DICTIONARY: readonly (readonly number[])[] = [
  ...[0x80, 0x81, 0x8f, 0x90, 0x91, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xc3].map((byte) => [byte]),
  ...[0xc4, 0xc7, 0xca, 0xcb, 0xcc, 0xcd, 0xce, 0xcf, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd8].map((byte) => [byte]),
  ...[0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0].map((byte) => [byte, 0, 1]),
  [0xff, 0xff, 0xff, 0xff],
  [0x7f, 0xff, 0xff, 0xff],
  [0xdd, 0xff, 0xff, 0xff, 0xff],
  [0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
  [0x91, 0x91, 0x91, 0x91, 0x91],
  [0xa9, ...Buffer.from('__proto__')],
  [0xab, ...Buffer.from('constructor')],
  [0xa4, ...Buffer.from('kind')],
]

type Change = (bytes: Uint8Array) => Uint8Array

const CHANGES: readonly Change[] = [
  (bytes) => edited(bytes, below(bytes.length), 1, [below(256)]),
  (bytes) => edited(bytes, below(bytes.length), 1, [(bytes[below(bytes.length)] ?? 0) ^ (1 << below(8))]),
  (bytes) => edited(bytes, below(bytes.length), 1, oneOf(DICTIONARY)),
  (bytes) => edited(bytes, below(bytes.length), 0, oneOf(DICTIONARY)),
  (bytes) => edited(bytes, below(bytes.length), below(8), []),
  (bytes) => bytes.subarray(0, below(bytes.length)),
  (bytes) => edited(bytes, below(bytes.length), below(8), oneOf(CORPUS).header.subarray(below(40), 40 + below(40))),
]

const CORPUS = SAMPLES.map(({ schema, message, payload }) => {
  const frame = encodeMessage(schema, message, payload)
  return { frame, payload, header: frame.subarray(20, 20 + new DataView(frame.buffer).getUint32(8, true)) }
})

/** Half the inputs damage a header in a frame that is else right, because damage to the frame itself hides the rest. */
function input(): Uint8Array {
  const { frame, header, payload } = oneOf(CORPUS)
  const kind = random()
  if (kind < 0.1) return Uint8Array.from({ length: below(200) }, () => below(256))
  if (kind < 0.15) return rawFrame({ header: Uint8Array.from({ length: below(100) }, () => below(256)), payload })
  if (kind < 0.2) return edited(frame, below(16), 1 + below(4), [below(256), below(4)])
  if (kind < 0.5) return changed(frame)
  return rawFrame({ header: changed(header), payload })
}

function changed(bytes: Uint8Array): Uint8Array {
  let result = bytes
  for (let left = 1 + below(3); left > 0; left--) result = oneOf(CHANGES)(result)
  return result
}

function edited(bytes: Uint8Array, at: number, remove: number, insert: ArrayLike<number>): Uint8Array {
  const tail = bytes.subarray(Math.min(at + remove, bytes.length))
  const result = new Uint8Array(at + insert.length + tail.length)
  result.set(bytes.subarray(0, at))
  result.set(insert, at)
  result.set(tail, at + insert.length)
  return result
}

/** `ok` or the code that the bytes were refused with. */
function outcome(schema: z.ZodType<object, object>, bytes: Uint8Array): string {
  try {
    const { message, payload } = decodeMessage(schema, bytes, LIMIT)
    assert.equal(payload.buffer, bytes.buffer)
    assert.equal(Object.getPrototypeOf(message), Object.prototype)
    return 'ok'
  } catch (error) {
    if (!(error instanceof HeadraceError)) throw error
    assert.equal(error.cause, undefined, `the scan and the library disagree: ${Buffer.from(bytes).toString('hex')}`)
    return error.code
  }
}

it(`${INPUTS} damaged inputs are decoded or refused by code, by each of the four schemas`, { timeout: 120_000 }, () => {
  const outcomes = new Map<string, number>()
  for (let i = 0; i < INPUTS; i++) {
    const bytes = input()
    for (const schema of Object.values(FAMILIES)) {
      const code = outcome(schema, bytes)
      outcomes.set(code, (outcomes.get(code) ?? 0) + 1)
    }
  }
  const reached = [
    'ok',
    'truncated',
    'oversized',
    'bad_magic',
    'bad_version',
    'damaged',
    'bad_header',
    'too_deep',
    'bad_schema',
  ]
  assert.deepEqual(
    [...outcomes.keys()].sort(),
    reached.map((code) => (code === 'ok' ? code : `frame_${code}`)).sort(),
    'the inputs reach every answer there is, and no other',
  )
})
