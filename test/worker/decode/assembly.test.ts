import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { HeadraceError } from '../../../shared/errors.ts'
import { kvBytesPerTokenLayer } from '../../../shared/model-shape.ts'
import { blocksOf } from '../../../shared/plan.ts'
import { Assembly } from '../../../worker/decode/assembly.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { Engine } from '../../../worker/engine/engine.ts'
import { summed } from '../../../worker/kv/block.ts'
import { Incoming } from '../../../worker/kv/incoming.ts'
import { seededRandom, shuffled } from '../../support/random.ts'
import { createTinyModel, type TinyModel } from '../../support/tiny-model.ts'

const turns = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
}

describe('an assembly', () => {
  let model: TinyModel
  let engine: Engine
  before(async () => {
    model = await createTinyModel({ layers: 2 })
    engine = await createEngine('reference', model.folder, { threads: 1 })
  })
  after(() => model.remove())

  const PROMPT = 50
  const incoming = () => new Incoming(() => undefined)
  const OTHERS = blocksOf([{ start: 0, end: 40 }], 8)
  const open = () => {
    const controller = new AbortController()
    const { signal } = controller
    const of = { engine, promptTokens: PROMPT, capacity: 60, blocks: OTHERS, incoming: incoming(), signal }
    return { controller, assembly: new Assembly(of) }
  }
  const block = (layer: number, { start, end }: { start: number; end: number }) => {
    const bytes = new Uint8Array((end - start) * kvBytesPerTokenLayer(engine.shape)).fill(start)
    return summed({ id: 0, layer, start, count: end - start, dtype: 'f32' as const, bytes })
  }

  it('gives what has come, in order and neighbours as one, each position once', async () => {
    const { assembly } = open()
    for (const i of [3, 0, 1]) await assembly.add(block(0, OTHERS[i]!))
    assembly.computed(0, 40)
    const first = await assembly.take(0)
    assert.deepEqual(first, [
      { start: 0, end: 16 },
      { start: 24, end: 32 },
      { start: 40, end: 50 },
    ])
    const waiting = assembly.take(0)
    await assembly.add(block(1, OTHERS[2]!))
    await assembly.add(block(0, OTHERS[2]!))
    assert.deepEqual(await waiting, [{ start: 16, end: 24 }])
    await assembly.add(block(0, OTHERS[4]!))
    assert.deepEqual(await assembly.take(0), [{ start: 32, end: 40 }])
    assert.equal(await assembly.take(0), undefined)
  })

  it('is complete with the last block of the others, in whatever order they come', async () => {
    const { assembly } = open()
    let complete = false
    const completed = assembly.complete().then(() => {
      complete = true
    })
    const blocks = shuffled(
      seededRandom(5),
      [0, 1].flatMap((layer) => OTHERS.map((span) => block(layer, span))),
    )
    for (const one of blocks) {
      assert.ok(!complete)
      await assembly.add(one)
    }
    await completed
    for (const layer of [0, 1]) {
      assert.deepEqual(await assembly.take(layer), [{ start: 0, end: 40 }])
      assembly.computed(layer, 40)
      assert.deepEqual(await assembly.take(layer), [{ start: 40, end: 50 }])
    }
  })

  it('gives its memory back only when the block under way is in, and takes no more of a cancelled run', async () => {
    const log: string[] = []
    let proceed = (): void => undefined
    const slow: Engine = Object.assign(Object.create(engine) as Engine, {
      createKv: (start: number, capacity: number) => engine.createKv(start, capacity),
      importKv: () =>
        new Promise<void>((resolve) => {
          log.push('import begins')
          proceed = () => {
            log.push('import ends')
            resolve()
          }
        }),
      release: () => log.push('release'),
    })
    Object.defineProperty(slow, 'shape', { value: engine.shape })
    const controller = new AbortController()
    const { signal } = controller
    const prompt = { promptTokens: PROMPT, capacity: 60, blocks: OTHERS }
    const assembly = new Assembly({ engine: slow, ...prompt, incoming: incoming(), signal })
    assembly.complete().catch(() => undefined)
    const first = assembly.add(block(0, OTHERS[0]!))
    const second = assert.rejects(assembly.add(block(0, OTHERS[1]!)), { code: 'cancelled' })
    await turns()
    controller.abort(new HeadraceError('cancelled', 'the client left'))
    const released = assembly.settled().then(() => slow.release())
    await turns()
    assert.deepEqual(log, ['import begins'])
    proceed()
    await Promise.all([first, second, released])
    assert.deepEqual(log, ['import begins', 'import ends', 'release'])
  })

  it('does not take a damaged block, and takes it when it comes again', async () => {
    const { assembly } = open()
    const whole = block(0, OTHERS[0]!)
    const fetched = assembly.fetch(whole, 'f32')
    assert.equal(await assembly.add({ ...whole, crc32: 1 }), false)
    assert.equal(await assembly.add(whole), true)
    const { bytes, crc32, ...place } = await fetched
    assert.deepEqual([...bytes], [...whole.bytes])
    assert.deepEqual(place, { layer: 0, start: whole.start, count: whole.count, dtype: 'f32' })
    assert.equal(crc32, whole.crc32)
  })

  it('lets who waits for a block know that the run is over', async () => {
    const { assembly, controller } = open()
    const waiting = assert.rejects(assembly.fetch(block(1, OTHERS[0]!), 'f32'), { code: 'cancelled' })
    controller.abort(new HeadraceError('cancelled', 'the client left'))
    await waiting
  })

  it('lets nobody wait who was cancelled', async () => {
    const { assembly, controller } = open()
    const reason = new HeadraceError('cancelled', 'the client left')
    const waiting = assert.rejects(assembly.take(0), reason)
    const completing = assert.rejects(assembly.complete(), reason)
    controller.abort(reason)
    await Promise.all([waiting, completing])
    await assert.rejects(assembly.take(1), reason)
  })
})
