import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import type { z } from 'zod'
import { commandSchema, eventSchema } from '../../../shared/protocol/control.ts'
import { decodeFrame, encodeFrame } from '../../../shared/protocol/frame.ts'
import { decodeMessage, encodeMessage } from '../../../shared/protocol/messages.ts'
import { peerDeliverySchema } from '../../../shared/protocol/peer.ts'
import { GOLDEN_FRAMES } from '../../golden/frames.ts'
import { rawFrame, toHex } from '../../support/raw-frame.ts'
import { commands, FAMILIES, SAMPLES } from '../../support/sample-messages.ts'
import { arbitraryOf } from '../../support/schema-arbitrary.ts'

const LIMIT = 2 ** 20
const SCHEMAS: readonly (readonly [string, z.ZodType<object, object>])[] = Object.entries(FAMILIES)

describe('golden frames', () => {
  it('are there for every kind of message', () => {
    const kinds = Object.entries(FAMILIES).flatMap(([family, schema]) =>
      schema.options.map((option) => `${family} ${option.shape.kind.value}`),
    )
    assert.deepEqual(Object.keys(GOLDEN_FRAMES).sort(), kinds.sort())
    assert.equal(SAMPLES.length, kinds.length)
  })

  for (const { family, schema, message, payload } of SAMPLES) {
    const name = `${family} ${message.kind}`
    it(`${name} has the same bytes as ever`, () => {
      const frame = encodeMessage(schema, message, payload)
      assert.equal(toHex(frame), GOLDEN_FRAMES[name])
      assert.deepEqual(decodeMessage(schema, frame, LIMIT), { message, payload })
      const backwards = Object.fromEntries(Object.entries(message).reverse()) as typeof message
      assert.deepEqual(encodeMessage(schema, backwards, payload), frame)
    })
  }
})

describe('a message', () => {
  for (const [family, schema] of SCHEMAS)
    it(`comes back as it was: any ${family}`, () => {
      fc.assert(
        fc.property(arbitraryOf(schema), fc.uint8Array({ maxLength: 300 }), (message, payload) => {
          const frame = encodeMessage(schema, message as object, payload)
          const again = decodeMessage<z.ZodType<object, object>, ArrayBufferLike>(schema, frame, LIMIT)
          assert.deepEqual(again, { message, payload })
          assert.equal(again.payload.buffer, frame.buffer)
        }),
        { seed: 7, numRuns: 500 },
      )
    })

  it('carries its spans as flat numbers', () => {
    const [prefill] = commands.filter(({ kind }) => kind === 'prefill')
    assert.ok(prefill)
    const { header } = decodeFrame(encodeMessage(commandSchema, prefill), LIMIT)
    const { workers } = header as { workers: { spans: unknown }[] }
    assert.deepEqual(workers[0]?.spans, [0, 300])
    assert.deepEqual(workers[1]?.spans, [300, 512, 65_536, 70_000])
  })

  it('keeps text that is not plain ASCII', () => {
    const message = { kind: 'failed', run: 'r', code: 'internal', message: 'naïve 漢字 😀 \u0000' } as const
    assert.deepEqual(decodeMessage(eventSchema, encodeMessage(eventSchema, message), LIMIT).message, message)
  })

  it('drops fields that are undefined', () => {
    const frame = encodeMessage(eventSchema, { kind: 'ready', cost: undefined })
    assert.deepEqual(decodeMessage(eventSchema, frame, LIMIT).message, { kind: 'ready' })
  })

  it('is a plain object at every level', () => {
    for (const { schema, message } of SAMPLES)
      assertPlain(decodeMessage(schema, encodeMessage(schema, message), LIMIT).message)
  })
})

describe('a message is refused', () => {
  const refuses = (header: object, message: RegExp, schema: z.ZodType<object, object> = commandSchema) =>
    assert.throws(() => decodeMessage(schema, encodeFrame(header), LIMIT), {
      name: 'HeadraceError',
      code: 'frame_bad_schema',
      message,
    })

  it('when its kind is of another family', () => {
    for (const a of SAMPLES)
      for (const [family, schema] of SCHEMAS)
        if (family !== a.family && a.message.kind !== 'refused')
          assert.throws(
            () =>
              decodeMessage<z.ZodType<object, object>, ArrayBufferLike>(
                schema,
                encodeMessage(a.schema, a.message),
                LIMIT,
              ),
            {
              code: 'frame_bad_schema',
              message: /^kind: /,
            },
          )
  })

  it('with the path of what is wrong', () => {
    const worker = { worker: 'w', epoch: 1, url: 'u', prefixWire: 'f32', handoffWire: 'f32' }
    const layers = { from: 0, to: 1 }
    const decode = { decode: 'd', decodeUrl: 'u' }
    const prefill = {
      kind: 'prefill',
      run: 'r',
      strategy: 'solo',
      rank: 0,
      ...decode,
      blockTokens: 1,
      promptTokens: 9,
      layers,
    }
    refuses({ kind: 'ping', seq: -1 }, /^seq: /)
    refuses({ kind: 'ping', seq: 1.5 }, /^seq: /)
    refuses({ kind: 'ping', seq: '1' }, /^seq: /)
    refuses({ kind: 'ping', seq: Number.NaN }, /^seq: /)
    refuses({ kind: 'ping' }, /^seq: /)
    refuses({ kind: 'ping', seq: 1, extra: 1 }, /^message: .*extra/)
    refuses({ ...prefill, workers: [] }, /^workers: /)
    refuses({ ...prefill, workers: [{ ...worker, spans: [0, 5, 5] }] }, /^workers\.0\.spans: /)
    refuses({ ...prefill, workers: [{ ...worker, spans: [] }] }, /^workers\.0\.spans: /)
    refuses({ ...prefill, workers: [{ ...worker, spans: [0, 5, 7, 7] }] }, /^workers\.0\.spans\.1: /)
    refuses({ ...prefill, workers: [{ ...worker, spans: [-1, 5] }] }, /^workers\.0\.spans\.0\.start: /)
    refuses({ ...prefill, workers: [{ ...worker, spans: [0, 'x'] }] }, /^workers\.0\.spans\.1: /)
    refuses({ ...prefill, workers: [{ ...worker, spans: Array.from({ length: 386 }, (_, i) => i) }] }, /spans: /)
    refuses({ kind: 'kv', run: 'r' }, /^fingerprint: /, peerDeliverySchema)
  })

  it('with a complaint of bounded length', () => {
    refuses({ kind: 'ping', seq: 1, ['x'.repeat(60_000)]: 1 }, /^.{1,200}$/)
  })

  it('before it is sent, too', () => {
    assert.throws(() => encodeMessage(commandSchema, { kind: 'ping', seq: -1 }), { code: 'frame_bad_schema' })
    const span = { start: 5, end: 5 }
    const wrong = {
      kind: 'prefill',
      run: 'r',
      strategy: 'solo',
      rank: 0,
      decode: 'd',
      decodeUrl: 'u',
      layers: { from: 0, to: 1 },
      blockTokens: 1,
      promptTokens: 9,
    } as const
    assert.throws(
      () =>
        encodeMessage(commandSchema, {
          ...wrong,
          tickets: [],
          workers: [{ worker: 'w', epoch: 1, url: 'u', spans: [span], prefixWire: 'f32', handoffWire: 'f32' }],
        }),
      { code: 'frame_bad_schema' },
    )
  })

  it('when it is no map at all', () => {
    for (const byte of [0x01, 0xc0, 0x90, 0xa0])
      assert.throws(() => decodeMessage(commandSchema, rawFrame({ header: Uint8Array.of(byte) }), LIMIT), {
        code: 'frame_bad_schema',
      })
  })
})

function assertPlain(value: unknown): void {
  if (typeof value !== 'object' || value === null) return
  if (!Array.isArray(value)) assert.equal(Object.getPrototypeOf(value), Object.prototype)
  for (const inner of Object.values(value)) assertPlain(inner)
}
