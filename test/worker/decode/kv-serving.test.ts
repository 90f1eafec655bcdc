import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { DATA_LIMITS, type Link } from '../../../shared/link/link.ts'
import { createLog } from '../../../shared/log.ts'
import { decodeMessage, encodeMessage } from '../../../shared/protocol/messages.ts'
import { peerDeliverySchema } from '../../../shared/protocol/peer.ts'
import { KvServing } from '../../../worker/decode/kv-serving.ts'
import type { Wanted } from '../../../worker/kv/expected-blocks.ts'
import { packWanted } from '../../../worker/kv/wanted.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { memoryLinkPair } from '../../support/memory-link.ts'

const wanted: readonly Wanted[] = Array.from({ length: 100 }, (_, i) => ({ layer: i >> 5, start: i & 31, count: 1 }))
const turn = () => new Promise((resolve) => setImmediate(resolve))
const request = { kind: 'subscribe', run: 'r', purpose: 'cached', window: 99, wire: 'f32', ticket: 't' } as const

/** A cache that has every block at once, and counts what it gave. */
function serving() {
  const fetched: Wanted[] = []
  const bytes = new Uint8Array(8)
  const server = new KvServing({
    worker: 'd1',
    epoch: 1,
    fingerprint: 'f'.repeat(64),
    compute: {
      fetch: (one, _wire, onBlock) => {
        fetched.push(one)
        onBlock({ ...one, crc32: 0, dtype: 'f32', bytes })
      },
    },
    encode: (header, payload) => encodeMessage(peerDeliverySchema, header, payload),
    isBlock: () => true,
    mostBlocks: wanted.length,
    clock: new ManualClock(),
    log: createLog('test', 'silent'),
  }).server('r', () => true)
  return { server, fetched }
}

const blockOn = async (link: Link): Promise<string> => {
  const { message } = decodeMessage(peerDeliverySchema, (await link.receive())!, DATA_LIMITS.maxFrameBytes)
  return message.kind === 'kv' ? `${message.layer} ${message.start}` : message.kind
}

describe('a subscriber of a cache', () => {
  it('that opens its window wide and reads nothing has few blocks waiting, and gets all once it reads', async () => {
    const { server, fetched } = serving()
    const [near, far] = memoryLinkPair({ maxFrameBytes: 4096, maxQueuedFrames: 4 })
    server.handle(request, 'w1', far, packWanted(wanted))
    while (fetched.length < 16) await turn()
    for (let turns = 0; turns < 50; turns++) await turn()
    // What it has not read is in its own queue, in the link's hands, or among the sixteen.
    assert.ok(fetched.length <= 16 + 4 + 2, `${fetched.length} blocks are out of the cache`)
    const got: string[] = []
    while (got.length < wanted.length) got.push(await blockOn(near))
    assert.deepEqual(
      got,
      wanted.map(({ layer, start }) => `${layer} ${start}`),
    )
  })

  it('gets no more than its window allows, however much it reads', async () => {
    const { server, fetched } = serving()
    const [near, far] = memoryLinkPair()
    server.handle({ ...request, window: 1 }, 'w1', far, packWanted(wanted))
    for (let i = 0; i < 32; i++) assert.equal(await blockOn(near), `0 ${i}`)
    for (let turns = 0; turns < 20; turns++) await turn()
    assert.equal(fetched.length, 32)
    server.handle({ kind: 'credit', run: 'r', window: 2 }, 'w1', far, new Uint8Array(0))
    assert.equal(await blockOn(near), '1 0')
  })
})
