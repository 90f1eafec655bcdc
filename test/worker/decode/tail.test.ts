import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { HeadraceError } from '../../../shared/errors.ts'
import { blocksOf } from '../../../shared/plan.ts'
import { Turns } from '../../../worker/compute/turns.ts'
import { Assembly } from '../../../worker/decode/assembly.ts'
import { computeTail } from '../../../worker/decode/tail.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { Engine } from '../../../worker/engine/engine.ts'
import { exportBlock } from '../../../worker/kv/block.ts'
import { Incoming } from '../../../worker/kv/incoming.ts'
import type { DeliveredBlock, KvBlock } from '../../../worker/prefill/exchange.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { maxAbsDifference } from '../../support/numbers.ts'
import { PlainRun } from '../../support/plain-run.ts'
import { randomInt, seededRandom, shuffled } from '../../support/random.ts'
import { createTinyModel, type TinyModel } from '../../support/tiny-model.ts'

const LAYERS = 3
const PROMPT = 80
const BLOCK = 16

const loop = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('the tail of a prefill', () => {
  let model: TinyModel
  let engine: Engine
  let logits: Float32Array
  /** Of the whole prompt, as workers would hand them over. */
  let blocks: KvBlock[]
  const random = seededRandom(2)
  const prompt = Array.from({ length: PROMPT }, () => randomInt(random, 64))

  before(async () => {
    model = await createTinyModel({ seed: 5, layers: LAYERS })
    engine = await createEngine('reference', model.folder, { threads: 1 })
    const run = new PlainRun(engine, PROMPT, { chunkTokens: PROMPT, blockTokens: BLOCK })
    logits = await run.feed(prompt)
    blocks = []
    for (const [layer, caches] of run.caches.entries())
      for (const kv of caches) blocks.push(await exportBlock(engine, layer, kv, 'f32'))
  })
  after(() => model.remove())

  const start = (prefillTokens: number) => {
    const clock = new ManualClock()
    const controller = new AbortController()
    const { signal } = controller
    const others = blocksOf([{ start: 0, end: prefillTokens }], BLOCK)
    const incoming = new Incoming(() => undefined)
    const room = { promptTokens: PROMPT, capacity: PROMPT + 3, budgetBytes: 2 ** 30 }
    const assembly = new Assembly({ engine, ...room, blocks: others, incoming, signal })
    const layers: number[] = []
    const result = computeTail({
      engine,
      tokens: Int32Array.from(prompt.slice(prefillTokens)),
      promptTokens: PROMPT,
      start: prefillTokens,
      assembly,
      clock,
      turn: new Turns(clock, loop).open(signal),
      onLayer: (layer) => layers.push(layer),
    })
    const due = (layer: number): DeliveredBlock[] =>
      blocks
        .filter((block) => block.layer === layer && block.start < prefillTokens)
        .map((block, id) => ({ ...block, id }))
    return { clock, controller, assembly, layers, result, due }
  }

  for (const prefillTokens of [64, 32])
    it(`of ${PROMPT - prefillTokens} tokens has one layer left when the last layer's blocks come`, async () => {
      const { assembly, layers, result, due } = start(prefillTokens)
      for (let layer = 0; layer < LAYERS; layer++) {
        assert.deepEqual(layers, [...Array(layer).keys()])
        const [held, ...others] = due(layer)
        for (const block of others) await assembly.add(block)
        for (let turn = 0; turn < 50; turn++) await loop()
        assert.equal(layers.length, layer, 'not without all blocks of a layer')
        await assembly.add(held!)
        while (layers.length === layer) await loop()
      }
      assert.ok(maxAbsDifference((await result).logits, logits) < 1e-4)
    })

  it('takes blocks of any layer in any order', async () => {
    const { assembly, result, due } = start(64)
    for (const block of shuffled(seededRandom(8), [0, 1, 2].flatMap(due))) {
      await assembly.add(block)
      await loop()
    }
    assert.ok(maxAbsDifference((await result).logits, logits) < 1e-4)
  })

  it('waits for nobody when the whole prompt is its own', async () => {
    const { result } = start(0)
    const { logits: found, waitSeconds } = await result
    assert.ok(maxAbsDifference(found, logits) < 1e-4)
    assert.equal(waitSeconds, 0)
  })

  it('counts the seconds in which it waited for blocks, and only these', async () => {
    const { clock, assembly, layers, result, due } = start(64)
    for (let turn = 0; turn < 50; turn++) await loop()
    clock.advance(7)
    for (const block of due(0)) await assembly.add(block)
    while (layers.length === 0) await loop()
    for (let turn = 0; turn < 50; turn++) await loop()
    clock.advance(3)
    for (const block of [...due(1), ...due(2)]) await assembly.add(block)
    assert.equal((await result).waitSeconds, 10)
  })

  it('ends with the coded reason when it is cancelled while it waits', async () => {
    const { controller, result } = start(64)
    const reason = new HeadraceError('cancelled', 'the client left')
    const failed = assert.rejects(result, reason)
    for (let turn = 0; turn < 50; turn++) await loop()
    controller.abort(reason)
    await failed
  })
})
