import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Engine } from '../../worker/engine/engine.ts'
import { createTinyModel } from '../support/tiny-model.ts'
import { coresFrom } from './harness/cores.ts'
import { allCalls, decodeFlops, prefillFlops, visiblePairs } from './harness/flops.ts'
import { listed, listedNumbers } from './harness/lists.ts'
import { divergence, largest, topTenError } from './harness/numbers.ts'
import { type ChildError, PinnedChild } from './harness/pinned-child.ts'
import type { OurDecode, OurPrefill } from './harness/rivals.ts'
import { timedEngine } from './harness/timed-engine.ts'
import { PRESETS } from './models/presets.ts'

describe('operations of a prefill', () => {
  it('counts the keys that each query sees', () => {
    assert.equal(visiblePairs(0, 4), 1 + 2 + 3 + 4)
    assert.equal(visiblePairs(2, 4), 3 + 4)
  })

  it('has two for each parameter of a layer and token, and the head once', () => {
    const linear = 106.2e6 // of smol135, without embedding
    const { project, mix, logits, attend } = prefillFlops(PRESETS.smol135, 1000, 1000)
    assert.ok(Math.abs((project + mix) / 1000 / (2 * linear) - 1) < 1e-3)
    assert.equal(logits, 2 * 576 * 49_152)
    assert.equal(attend, 30 * 4 * 9 * 64 * visiblePairs(0, 1000))
  })

  it('is the sum of its tokens, one decoded after the other', () => {
    const tokens = 7
    const one = Array.from({ length: tokens }, (_, i) => decodeFlops(PRESETS.wide, i))
    const whole = prefillFlops(PRESETS.wide, tokens, tokens)
    const sum = one.reduce((total, each) => total + allCalls(each) - each.logits, 0)
    assert.equal(allCalls(whole) - whole.logits, sum)
  })
})

describe('logits compared', () => {
  const reference = Float32Array.of(3, 1, -2, 0.5, ...Array(12).fill(-9))

  it('finds the first of the largest', () => assert.equal(largest(Float32Array.of(1, 5, 5)), 1))

  it('looks at the ten largest of the reference only', () => {
    const found = reference.slice()
    found[3]! += 0.25
    found[15]! = 100
    assert.ok(Math.abs(topTenError(reference, found) - 0.25) < 1e-6)
  })

  it('does not mind a constant, and grows with what is moved', () => {
    assert.ok(
      divergence(
        reference,
        reference.map((x) => x + 7),
      ) < 1e-9,
    )
    const p = Float32Array.of(Math.log(0.75), Math.log(0.25))
    const q = Float32Array.of(Math.log(0.5), Math.log(0.5))
    const expected = 0.75 * Math.log(0.75 / 0.5) + 0.25 * Math.log(0.25 / 0.5)
    assert.ok(Math.abs(divergence(p, q) - expected) < 1e-6)
  })
})

describe('a timed engine', () => {
  it('answers as the engine does and adds up each kind of call, failed ones too', async () => {
    let at = 0
    const engine = {
      chunkTokens: 256,
      mix: async () => {
        at += 2
        return 'mixed'
      },
      logits: async () => {
        at += 1
        throw new Error('no')
      },
      accumulator: () => 'empty',
    } as unknown as Engine
    const timed = timedEngine(engine, () => at)
    const call = timed.engine as unknown as { mix(): Promise<string>; logits(): Promise<void>; accumulator(): string }
    assert.equal(timed.engine.chunkTokens, 256)
    assert.equal(call.accumulator(), 'empty')
    assert.equal(await call.mix(), 'mixed')
    await call.mix()
    await assert.rejects(call.logits(), /no/)
    assert.deepEqual(timed.spent(), { project: 0, attend: 0, mix: 4, step: 0, logits: 1 })
    timed.reset()
    assert.equal(timed.spent().mix, 0)
  })
})

describe('a measured program', { skip: process.platform !== 'linux' }, () => {
  const program = fileURLToPath(new URL('children/engine-child.js', import.meta.url))

  it('computes what it is asked, says what went wrong, and can be stopped', async () => {
    const model = await createTinyModel()
    const { signal } = new AbortController()
    const child = await PinnedChild.start(program, coresFrom(0, 1), signal)
    try {
      const missing = child.ask('open', { folder: '/nowhere', weights: 'f32', threads: 1 })
      await assert.rejects(missing, (thrown: ChildError) => thrown.code === 'model_incomplete')
      await child.ask('open', { folder: model.folder, weights: 'f32', threads: 1 })
      const tokens = Array.from({ length: 600 }, (_, i) => i % 64)
      const first = await child.ask<OurPrefill>('prefill', { tokens })
      const second = await child.ask<OurPrefill>('prefill', { tokens })
      assert.equal(first.token, second.token)
      assert.equal(first.lastRows, 300, 'the second block')
      assert.ok(first.residentBytes > 0 && allCalls(first.seconds) * 1000 <= first.ms)
      const decoded = await child.ask<OurDecode>('decode', { context: 600, count: 5 })
      assert.equal(decoded.ms.length, 5)
    } finally {
      await child.stop()
      await model.remove()
    }
  })

  it('is an error when it ends, and gives up when the suite does', async () => {
    const stopped = new AbortController()
    const child = await PinnedChild.start(program, '0', stopped.signal)
    const answer = child.ask('open', { folder: '/nowhere', weights: 'f32', threads: 1 }).catch(() => undefined)
    await answer
    stopped.abort()
    await assert.rejects(child.ask('prefill', { tokens: [1] }))
    await child.stop()
    await assert.rejects(PinnedChild.start('/no/such/program.js', '0', new AbortController().signal), /status 1/)
  })
})

describe('options that are lists', () => {
  it('takes commas and spaces alike', () => {
    assert.deepEqual(listedNumbers(['512,2048', 8192]), [512, 2048, 8192])
    assert.deepEqual(listed(['f32,', 'int8']), ['f32', 'int8'])
  })
})
