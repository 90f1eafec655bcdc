import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { Positions } from '../../../worker/engine/engine.ts'
import { GraphBuilder } from '../../../worker/engine/onnx/graph-builder.ts'
import { DEVICE_GRAPHS, LEAVING_GRAPHS } from '../../../worker/engine/webgpu/device-graphs.ts'
import { DeviceKv, loadSegment, storeSegment } from '../../../worker/engine/webgpu/device-kv.ts'
import { DeviceSessions } from '../../../worker/engine/webgpu/device-sessions.ts'
import { llamaShape } from '../../support/llama-shape.ts'
import { randomInt, seededRandom, shuffled } from '../../support/random.ts'

const [HEADS, DIM] = [2, 2]
const shape = llamaShape({
  layers: 1,
  hidden: 4,
  heads: 2,
  kvHeads: HEADS,
  headDim: DIM,
  ffn: 4,
  vocab: 4,
  contextLength: 64,
  tiedHead: true,
})

describe('the cache of a device', () => {
  const sessions = new DeviceSessions('cpu')
  before(async () => {
    const model = { shape, element: 'float32' } as const
    for (const kind of ['store', 'slice', 'concat'] as const)
      await sessions.add(kind, DEVICE_GRAPHS[kind](model, new GraphBuilder()))
    await sessions.add('load', LEAVING_GRAPHS.load(model, new GraphBuilder()))
  })
  after(() => sessions.release())

  /** Positions are written with `stamp` in every number, so that what is read says who wrote it. */
  async function write(kv: DeviceKv, { start, count }: Positions, stamp: number): Promise<void> {
    const values = () =>
      Float32Array.from({ length: HEADS * count * DIM }, (_, i) => stamp * 1000 + start + (Math.floor(i / DIM) % count))
    const host = { k: values(), v: values() }
    await kv.put(sessions, await storeSegment(sessions, { start, count }, [HEADS, count, DIM], host))
  }

  /** What each position holds; undefined where nothing was written. */
  async function read(kv: DeviceKv): Promise<(number | undefined)[]> {
    const found: (number | undefined)[] = Array.from({ length: kv.capacity }, () => undefined)
    for (const { segment, start, count } of kv.parts(kv.range)) {
      const { k, v } = await loadSegment(sessions, segment, { start, count })
      assert.deepEqual(k, v)
      for (let i = 0; i < count; i++) {
        const ofHeads = Array.from({ length: HEADS }, (_, head) => k[(head * count + i) * DIM])
        assert.equal(new Set(ofHeads).size, 1)
        found[start - kv.start + i] = ofHeads[0]
      }
    }
    return found
  }

  test('holds what was written last at each position, whatever the order and the overlap', async () => {
    const random = seededRandom(8)
    for (let trial = 0; trial < 20; trial++) {
      const kv = new DeviceKv(50, 300)
      const expected: (number | undefined)[] = Array.from({ length: 300 }, () => undefined)
      for (let stamp = 1; stamp <= 12; stamp++) {
        const start = 50 + randomInt(random, 290)
        const count = 1 + randomInt(random, Math.min(120, 350 - start))
        await write(kv, { start, count }, stamp)
        for (let at = start; at < start + count; at++) expected[at - 50] = stamp * 1000 + at
      }
      assert.deepEqual(await read(kv), expected)
      kv.release()
    }
  })

  test('is few segments, whether it grows by blocks in any order or by single tokens', async () => {
    const kv = new DeviceKv(0, 9000)
    const blocks = Array.from({ length: 16 }, (_, i) => i * 512)
    for (const start of shuffled(seededRandom(2), blocks)) await write(kv, { start, count: 512 }, 1)
    assert.ok(kv.parts(kv.range).length <= 12, String(kv.parts(kv.range).length))
    for (let at = 8192; at < 8492; at++) await write(kv, { start: at, count: 1 }, 1)
    assert.ok(kv.parts({ start: 8192, count: 300 }).length <= 4)
    kv.release()
    assert.deepEqual(kv.parts(kv.range), [])
  })

  test('refuses positions that are not its own', () => {
    const kv = new DeviceKv(8, 4)
    for (const [start, count] of [
      [7, 2],
      [11, 2],
      [9, 0],
    ] as const)
      assert.throws(() => kv.checkRange({ start, count }), { code: 'kv_shape' })
    kv.checkRange(kv.range)
  })
})
