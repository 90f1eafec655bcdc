import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { BufferPool } from '../../../shared/link/buffer-pool.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { PrefillAssignment } from '../../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../../shared/protocol/messages.ts'
import { type KvHeader, peerDeliverySchema } from '../../../shared/protocol/peer.ts'
import type { KvBlock, ReceivedBlock } from '../../../worker/prefill/exchange.ts'
import { RunExchange } from '../../../worker/prefill/run-exchange.ts'
import { TraceRecorder } from '../../../worker/trace/recorder.ts'
import { memoryLinkPair } from '../../support/memory-link.ts'

const fingerprint = 'e'.repeat(64)
const shape = { layers: 3, kvHeads: 1, headDim: 2 } as ModelShape
const BYTES = { f32: 16, f16: 8, int8: 12 }

/** Rank 1 of a chain of three: w1's blocks come from the left as int8, its own go on as f16 and are handed off as f32. */
const assignment: PrefillAssignment = {
  kind: 'prefill',
  run: 'r',
  strategy: 'chain',
  rank: 1,
  workers: (['int8', 'f16', 'f32'] as const).map((prefixWire, i) => ({
    worker: `w${i + 1}`,
    epoch: 1,
    url: '',
    spans: [{ start: i, end: i + 1 }],
    prefixWire,
    handoffWire: 'f32',
  })),
  decode: 'd',
  decodeUrl: 'ws://d',
  layers: { from: 0, to: 3 },
  blockTokens: 8,
  promptTokens: 9,
  tickets: [],
}

function exchange() {
  const encoded: KvHeader[] = []
  const delivered: ReceivedBlock[] = []
  const running = new RunExchange({
    assignment,
    shape,
    fingerprint,
    clock: realClock,
    trace: new TraceRecorder(realClock),
    buffers: new BufferPool(),
    encode: (header, payload) => {
      encoded.push(header)
      return encodeMessage(peerDeliverySchema, header, payload)
    },
    deliver: (block) => delivered.push(block),
    credit: () => undefined,
    onDrained: () => undefined,
    onError: (error) => assert.fail(error),
  })
  const subscriber = (name: string) => {
    const [near, far] = memoryLinkPair()
    running.handle({ kind: 'subscribe', run: 'r', purpose: 'prefix', window: 3, ticket: 't' }, name, near)
    return async () => {
      const frame = (await far.receive())!
      return { frame, ...decodeMessage(peerDeliverySchema, frame, 2 ** 20) }
    }
  }
  return { running, encoded, delivered, next: subscriber('w3'), decode: subscriber('d') }
}

const own = (dtype: KvBlock['dtype'], layer = 0): KvBlock => ({
  layer,
  start: 1,
  count: 1,
  crc32: 7,
  dtype,
  bytes: new Uint8Array(BYTES[dtype]).fill(BYTES[dtype]),
})

const header = (dtype: KvBlock['dtype']): KvHeader => {
  const place = { origin: 'w1', epoch: 1, layer: 0, start: 0, count: 1 }
  return { kind: 'kv', run: 'r', fingerprint, ...place, dtype, crc32: 7 }
}

describe('the exchange of a run', () => {
  it('makes one frame of a block that two need alike', async () => {
    const { running, encoded, next, decode } = exchange()
    running.publish(own('f32'), ['prefix', 'handoff'])
    const [toNext, toDecode] = [await next(), await decode()]
    assert.deepEqual(toNext.frame, toDecode.frame)
    assert.equal(encoded.length, 1)
    assert.equal(running.sent.length, 2)
  })

  it('sends each the encoding that is for it', async () => {
    const { running, next, decode } = exchange()
    running.publish(own('f16'), ['prefix'])
    running.publish(own('f32'), ['handoff'])
    for (const [got, dtype] of [
      [await next(), 'f16'],
      [await decode(), 'f32'],
    ] as const) {
      assert.ok(got.message.kind === 'kv')
      assert.equal(got.message.dtype, dtype)
      assert.deepEqual(got.payload, own(dtype).bytes)
    }
  })

  for (const dtype of ['int8', 'f16', 'f32'] as const)
    it(`passes on what another made as it came, planned as int8 and sent as ${dtype}`, async () => {
      const { running, encoded, delivered, next } = exchange()
      const payload = new Uint8Array(BYTES[dtype]).fill(3)
      const frame = encodeMessage(peerDeliverySchema, header(dtype), payload)
      running.receive(header(dtype), payload, frame)
      assert.deepEqual((await next()).frame, frame)
      assert.deepEqual(delivered, [{ layer: 0, start: 0, count: 1, crc32: 7, dtype, bytes: payload }])
      assert.equal(encoded.length, 0)
    })

  it('refuses a window beyond the layers that there are, asked for or granted', () => {
    const { running } = exchange()
    const [near] = memoryLinkPair()
    for (const kind of ['subscribe', 'credit'] as const)
      assert.throws(
        () => running.handle({ kind, run: 'r', purpose: 'prefix', window: 0x7fffffff, ticket: 't' }, 'w3', near),
        {
          code: 'unexpected_message',
        },
      )
  })

  it('refuses a block whose size is not that of its precision', () => {
    const { running, delivered } = exchange()
    assert.throws(() => running.receive(header('int8'), new Uint8Array(BYTES.f32), new Uint8Array()), {
      code: 'kv_shape',
    })
    assert.equal(delivered.length, 0)
  })
})
