import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { tolerances } from '../../../coordinator/runs/self-check.ts'
import type { EngineName, Weights } from '../../../shared/engine-name.ts'
import { blocksOf, type Span, type Wire } from '../../../shared/plan.ts'
import { Turns } from '../../../worker/compute/turns.ts'
import { checkBlocks, headDistance } from '../../../worker/decode/self-check.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { Engine, Kv } from '../../../worker/engine/engine.ts'
import { lyingEngine } from '../../support/lying-engine.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { PlainRun } from '../../support/plain-run.ts'
import { randomInt, seededRandom } from '../../support/random.ts'
import { createTinyModel, type TinyModel } from '../../support/tiny-model.ts'

type Tolerances = ReturnType<typeof tolerances>

const LAYERS = 3
const PROMPT = 96
const BLOCK = 32
const BLOCKS = blocksOf([{ start: 0, end: PROMPT }], BLOCK)

const loop = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('a block that is computed again', () => {
  let model: TinyModel
  const engines = new Map<string, Engine>()
  const random = seededRandom(4)
  const prompt = Array.from({ length: PROMPT }, () => randomInt(random, 64))

  before(async () => {
    model = await createTinyModel({ seed: 9, layers: LAYERS, hidden: 64, ffn: 128 })
  })
  after(async () => {
    for (const engine of engines.values()) await engine.close()
    await model.remove()
  })

  const engineOf = async (name: EngineName, weights: Weights = 'f32'): Promise<Engine> => {
    const key = `${name} ${weights}`
    const engine = engines.get(key) ?? (await createEngine(name, model.folder, { threads: 1, weights }))
    engines.set(key, engine)
    return engine
  }

  /** The prompt's cache as `maker` computes and sends it, at `checker`. `meddle` changes what is sent. */
  const received = async (
    maker: Engine,
    checker: Engine,
    wire: Wire,
    meddle: Meddle = (_layer, _at, bytes) => bytes,
  ) => {
    const run = new PlainRun(maker, PROMPT, { chunkTokens: 20, blockTokens: PROMPT })
    await run.feed(prompt)
    const kv_layers: Kv[] = []
    for (const [layer, [made]] of run.caches.entries()) {
      const kv = checker.createKv(0, PROMPT)
      for (const { start, end } of BLOCKS) {
        const { dtype, bytes } = await maker.exportKv(made!, start, end - start, wire)
        await checker.importKv(kv, start, end - start, { dtype, bytes: meddle(layer, start, bytes) })
      }
      kv_layers.push(kv)
    }
    return kv_layers
  }
  type Meddle = (layer: number, start: number, bytes: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>

  /** The first layer of a block that is not right. */
  const check = async (checker: Engine, kv_layers: readonly Kv[], block: Span, tolerance: Tolerances) => {
    const turn = new Turns(new ManualClock(), loop).open(new AbortController().signal)
    const tokens = Int32Array.from(prompt.slice(block.start, block.end))
    const found: number[] = []
    const checked = { ...block, ...tolerance, tokens, worker: 'w1' }
    try {
      for await (const { layer, start, count, wrong } of checkBlocks(
        { engine: checker, kv_layers, promptTokens: PROMPT, turn },
        [checked],
      )) {
        assert.deepEqual([start, count], [block.start, BLOCK])
        if (wrong !== undefined) return layer
        found.push(layer)
      }
    } finally {
      assert.deepEqual(found, [...found.keys()], 'layer by layer')
    }
    assert.equal(found.length, LAYERS)
    return undefined
  }

  const checkAll = async (checker: Engine, kv_layers: readonly Kv[], tolerance: Tolerances) => {
    const found: (number | undefined)[] = []
    for (const block of BLOCKS) found.push(await check(checker, kv_layers, block, tolerance))
    checker.release(...kv_layers)
    return found
  }

  const NOTHING = BLOCKS.map(() => undefined)

  for (const [maker, checker] of [
    ['reference', 'reference'],
    ['onnx', 'reference'],
    ['reference', 'onnx'],
    ['onnx', 'onnx'],
    ['tfjs', 'onnx'],
  ] as const)
    for (const wire of ['f32', 'f16', 'int8'] as const)
      it(`is right if ${maker} made it honestly, ${checker} checks, and the wire was ${wire}`, async () => {
        const [makes, checks] = [await engineOf(maker), await engineOf(checker)]
        const kv_layers = await received(makes, checks, wire)
        assert.deepEqual(await checkAll(checks, kv_layers, tolerances(wire, 'f32', 'f32')), NOTHING)
      })

  for (const weights of ['int8', 'int4'] as const)
    it(`is right with ${weights} weights on both sides, whatever the wire`, async () => {
      const engine = await engineOf('onnx', weights)
      for (const wire of ['f32', 'f16', 'int8'] as const) {
        const kv_layers = await received(engine, engine, wire)
        assert.deepEqual(await checkAll(engine, kv_layers, tolerances(wire, weights, weights)), NOTHING)
      }
    })

  it('is wrong from the first layer on if int4 computed it and float32 was said', async () => {
    const [makes, checks] = [await engineOf('onnx', 'int4'), await engineOf('onnx')]
    for (const wire of ['f32', 'f16', 'int8'] as const) {
      const kv_layers = await received(makes, checks, wire)
      const found = await checkAll(checks, kv_layers, tolerances(wire, 'f32', 'f32'))
      assert.deepEqual(found, [0, 0, 0], wire)
    }
  })

  for (const name of ['reference', 'onnx'] as const) {
    it(`shows the layer in which its maker computes wrongly (${name})`, async () => {
      const engine = await engineOf(name)
      const twice = lyingEngine(engine, (layer, mix) => (layer === 1 ? mix(0) : mix(layer)))
      const kv_layers = await received(twice, engine, 'f32')
      const found = await checkAll(engine, kv_layers, tolerances('f32', 'f32', 'f32'))
      assert.deepEqual(found, [2, 2, 2], 'what layer 1 makes wrong shows in K and V of layer 2')
    })

    it(`shows a layer that its maker has left out (${name})`, async () => {
      const engine = await engineOf(name)
      const lazy = lyingEngine(engine, (layer, mix, x) => (layer === 0 ? Promise.resolve(x) : mix(layer)))
      const kv_layers = await received(lazy, engine, 'int8')
      const found = await checkAll(engine, kv_layers, tolerances('int8', 'f32', 'f32'))
      assert.deepEqual(found, [1, 1, 1])
    })
  }

  it('is wrong if a single number of it is, and a block after it that is right stays right', async () => {
    const engine = await engineOf('reference')
    const kv_layers = await received(engine, engine, 'f32', (layer, start, bytes) => {
      if (layer !== 1 || start !== BLOCK) return bytes
      const copy = bytes.slice()
      const floats = new Float32Array(copy.buffer)
      floats[17]! += 0.5
      return copy
    })
    const tolerance = tolerances('f32', 'f32', 'f32')
    assert.equal(await check(engine, kv_layers, BLOCKS[0]!, tolerance), undefined)
    assert.equal(await check(engine, kv_layers, BLOCKS[1]!, tolerance), 1)
    engine.release(...kv_layers)
  })

  it('is wrong if it holds what is not a number', async () => {
    const engine = await engineOf('reference')
    const kv_layers = await received(engine, engine, 'f32', (layer, _start, bytes) =>
      layer === 2 ? new Uint8Array(new Float32Array(bytes.length / 4).fill(Number.NaN).buffer) : bytes,
    )
    const [found] = await checkAll(engine, kv_layers, tolerances('int8', 'int4', 'f32'))
    assert.equal(found, 2)
  })
})

it('says that nobody could be right once a block is wrong', async () => {
  const model = await createTinyModel({ seed: 9, layers: LAYERS })
  const engine = await createEngine('reference', model.folder, { threads: 1 })
  const kv_layers = Array.from({ length: LAYERS }, () => engine.createKv(0, PROMPT))
  const turn = new Turns(new ManualClock(), loop).open(new AbortController().signal)
  const tokens = new Int32Array(BLOCK)
  const blocks = BLOCKS.map((block) => ({ ...block, ...tolerances('f32', 'f32', 'f32'), tokens, worker: 'w1' }))
  const all = async (): Promise<void> => {
    for await (const { start } of checkBlocks({ engine, kv_layers, promptTokens: PROMPT, turn }, blocks))
      assert.equal(start, 0, 'the others are not looked at')
  }
  await assert.rejects(all(), { code: 'kv_wrong' })
  await model.remove()
})

it('measures the distance of a head in relation to its size', () => {
  const right = Float32Array.of(3, 4, 0, 0)
  assert.deepEqual(headDistance(right, right), { relative: 0, outlier: 0 })
  assert.deepEqual(headDistance(right, Float32Array.of(3, 4, 0, 2.5)), { relative: 0.5, outlier: 1 })
  const none = new Float32Array(4)
  assert.deepEqual(headDistance(none, none), { relative: 0, outlier: 0 })
  assert.equal(headDistance(none, Float32Array.of(0, 0, 0, 1e-6)).relative, Number.POSITIVE_INFINITY)
})
