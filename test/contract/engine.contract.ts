import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { HeadraceError } from '../../shared/errors.ts'
import { WIRES } from '../../shared/plan.ts'
import type { Engine, Kv, Positions } from '../../worker/engine/engine.ts'
import { decodeRows, encodeRows } from '../../worker/engine/wire-codec.ts'
import { widenF16 } from '../../worker/model/widen.ts'
import { type Candidate, engineOf, runsFew, titleOf } from '../support/candidate.ts'
import { maxAbsDifference } from '../support/numbers.ts'
import { PlainRun } from '../support/plain-run.ts'
import { randomInt, seededRandom, shuffled } from '../support/random.ts'
import { createTinyModel, type TinyModel, type TinyModelOptions } from '../support/tiny-model.ts'

const TOLERANCE = 2e-4

/** What every engine promises, whatever the model: see `Engine`. The reference engine is the measure. */
export function engineContract(name: Candidate): void {
  describe(`the ${titleOf(name)} engine`, () => {
    partsOfARun(name)
    attention(name)
    transport(name)
    refusals(name)
    shapes(name)
  })
}

const codeIs = (code: string) => (error: unknown) => error instanceof HeadraceError && error.code === code

const tokensOf = (count: number, vocab: number, seed = 7): number[] => {
  const random = seededRandom(seed)
  return Array.from({ length: count }, () => randomInt(random, vocab))
}

const f32 = (values: Float32Array<ArrayBuffer>) => ({ dtype: 'f32', bytes: new Uint8Array(values.buffer) }) as const

const exported32 = async (engine: Engine, kv: Kv, start: number, count: number) =>
  new Float32Array((await engine.exportKv(kv, start, count, 'f32')).bytes.buffer)

/** One model with both engines for a group of tests. */
function enginesFor(name: Candidate, options: Partial<TinyModelOptions> = {}): { engine: Engine; oracle: Engine } {
  const pair = {} as { engine: Engine; oracle: Engine }
  let model: TinyModel
  before(async () => {
    model = await createTinyModel(options)
    pair.engine = await engineOf(name, model.folder)
    pair.oracle = await engineOf('reference', model.folder)
  })
  after(async () => {
    await pair.engine.close()
    await pair.oracle.close()
    await model.remove()
  })
  return pair
}

function partsOfARun(name: Candidate): void {
  describe('over a whole run', () => {
    const engines = enginesFor(name)

    test('gives the same logits however the run is cut and in whatever order blocks are folded', async () => {
      const { engine } = engines
      const tokens = tokensOf(131, engine.shape.vocab)
      const whole = await new PlainRun(engine, 131, { chunkTokens: 131, blockTokens: 131 }).feed(tokens)
      const random = seededRandom(3)
      for (let trial = 0; trial < (runsFew(name) ? 3 : 12); trial++) {
        const order = (blocks: readonly Kv[]) => shuffled(random, blocks)
        const cutting = { chunkTokens: 1 + randomInt(random, 70), blockTokens: 1 + randomInt(random, 70), order }
        const cut = await new PlainRun(engine, 131, cutting).feed(tokens)
        assert.ok(maxAbsDifference(whole, cut) < TOLERANCE, JSON.stringify(cutting))
      }
    })

    test('gives other logits for other prompts, so that equality means something', async () => {
      const { engine } = engines
      const feed = (seed: number) =>
        new PlainRun(engine, 40, { chunkTokens: 40, blockTokens: 40 }).feed(tokensOf(40, engine.shape.vocab, seed))
      assert.ok(maxAbsDifference(await feed(1), await feed(2)) > 0.1)
    })

    test('writes K and V where the reference writes them', async () => {
      const exported = async (engine: Engine) => {
        const run = new PlainRun(engine, 60, { chunkTokens: 25, blockTokens: 60 })
        await run.feed(tokensOf(50, engine.shape.vocab))
        return exported32(engine, run.caches.at(-1)![0]!, 3, 41)
      }
      assert.ok(maxAbsDifference(await exported(engines.engine), await exported(engines.oracle)) < TOLERANCE)
    })

    test('reuses released memory without touching what is still in use', async () => {
      const { engine } = engines
      const tokens = tokensOf(64, engine.shape.vocab)
      const runs = [1, 2, 3].map(() => new PlainRun(engine, 64, { chunkTokens: 16, blockTokens: 32 }))
      const first = await runs[0]!.feed(tokens)
      await runs[1]!.feed(tokens.slice(0, 32))
      for (const blocks of runs[0]!.caches) engine.release(...blocks)
      assert.deepEqual(await runs[2]!.feed(tokens), first)
      assert.deepEqual(await runs[1]!.feed(tokens.slice(32)), first)
    })

    test('takes a token through all layers in one step as the reference does in parts', async () => {
      const through = async (engine: Engine, at: number, start = 0) => {
        const { layers, kvHeads, headDim, vocab } = engine.shape
        const random = seededRandom(9)
        const kv_layers = Array.from({ length: layers }, () => engine.createKv(start, 60))
        for (const kv of at > 0 ? kv_layers : []) {
          const values = Float32Array.from({ length: 2 * kvHeads * at * headDim }, () => random() * 4 - 2)
          await engine.importKv(kv, start, at, f32(values))
        }
        const x = await engine.step(await engine.embed(Int32Array.from(tokensOf(1, vocab))), start + at, kv_layers)
        const made: number[] = []
        for (const kv of kv_layers) made.push(...(await exported32(engine, kv, start + at, 1)))
        return [...(await engine.logits(x)), ...made]
      }
      for (const [at, start] of [[0], [1], [2], [37], [50], [59], [0, 100], [20, 100]] as const)
        assert.ok(
          maxAbsDifference(await through(engines.engine, at, start), await through(engines.oracle, at, start)) <
            TOLERANCE,
          `position ${at}`,
        )
    })

    test('lets others compute between the pieces of a step, and ends there if it may not go on', async () => {
      const { engine } = engines
      const { layers } = engine.shape
      const through = async (between: () => Promise<void>) => {
        const kv_layers = Array.from({ length: layers }, () => engine.createKv(0, 1))
        engine.release(await engine.step(await engine.embed(Int32Array.of(1)), 0, kv_layers, between))
      }
      let pauses = 0
      await through(async () => void pauses++)
      // nothing is before the first position: there every engine goes by the parts of each layer
      assert.equal(pauses, layers - 1)
      const refusal = new HeadraceError('cancelled', 'enough')
      await assert.rejects(
        through(() => Promise.reject(refusal)),
        refusal,
      )
    })

    test('only reads x in project, lastRow and logits', async () => {
      const { engine } = engines
      const x = await engine.embed(Int32Array.from(tokensOf(9, engine.shape.vocab)))
      const first = await engine.logits(x)
      engine.release(await engine.project(0, x, 0, engine.createKv(0, 9)), engine.lastRow(x))
      assert.deepEqual(await engine.logits(x), first)
    })

    test('goes on with the last row alone as it would with all', async () => {
      const { engine } = engines
      const x = await engine.embed(Int32Array.from(tokensOf(9, engine.shape.vocab)))
      const last = engine.lastRow(x)
      assert.equal(last.tokens, 1)
      const [all, one] = [engine.createKv(0, 9), engine.createKv(0, 9)]
      engine.release(await engine.project(0, x, 0, all), await engine.project(0, last, 8, one))
      const exported = async (kv: Kv) => new Float32Array((await engine.exportKv(kv, 8, 1, 'f32')).bytes.buffer)
      assert.ok(maxAbsDifference(await exported(all), await exported(one)) < TOLERANCE)
      assert.ok(maxAbsDifference(await engine.logits(last), await engine.logits(x)) < TOLERANCE)
    })
  })
}

function attention(name: Candidate): void {
  describe('when it attends', () => {
    const engines = enginesFor(name)

    /** What the next layer sees of every row of a chunk at `start` after folding `blocks`, position ranges of random keys. */
    async function attended(engine: Engine, start: number, count: number, blocks: [number, number][]) {
      const { kvHeads, headDim, vocab } = engine.shape
      const x = await engine.embed(Int32Array.from(tokensOf(count, vocab, 5)))
      const q = await engine.project(0, x, start, engine.createKv(start, count))
      const acc = engine.accumulator(q)
      for (const [from, end] of blocks) {
        const random = seededRandom(from)
        const kv = engine.createKv(from, end - from)
        const values = Float32Array.from({ length: 2 * kvHeads * (end - from) * headDim }, () => random() * 4 - 2)
        await engine.importKv(kv, from, end - from, f32(values))
        await engine.attend(0, q, kv, acc)
      }
      engine.release(q)
      const next = engine.createKv(start, count)
      await engine.project(1, await engine.mix(0, x, acc), start, next)
      return exported32(engine, next, start, count)
    }

    const cases: { what: string; start: number; count: number; blocks: [number, number][] }[] = [
      { what: 'keys wholly before the chunk', start: 100, count: 20, blocks: [[60, 90]] },
      { what: 'keys up to the chunk and into it', start: 100, count: 20, blocks: [[60, 107]] },
      { what: 'keys from within the chunk to far beyond it', start: 100, count: 20, blocks: [[111, 170]] },
      { what: 'keys that cover the chunk on both sides', start: 100, count: 20, blocks: [[90, 140]] },
      {
        what: 'the chunk itself and then what was before',
        start: 100,
        count: 20,
        blocks: [
          [100, 120],
          [0, 100],
        ],
      },
      { what: 'only the first key of the chunk', start: 100, count: 20, blocks: [[100, 101]] },
      { what: 'one query, its own key included', start: 33, count: 1, blocks: [[0, 40]] },
      { what: 'one query, all keys beyond it', start: 33, count: 1, blocks: [[34, 40]] },
      { what: 'more keys than one call takes', start: 1300, count: 3, blocks: [[0, 1303]] },
      { what: 'no keys at all', start: 100, count: 20, blocks: [] },
    ] // prettier-ignore
    for (const { what, start, count, blocks } of cases)
      test(`agrees with the reference on ${what}`, async () => {
        const got = await attended(engines.engine, start, count, blocks)
        const wanted = await attended(engines.oracle, start, count, blocks)
        assert.ok(maxAbsDifference(got, wanted) < TOLERANCE, `off by ${maxAbsDifference(got, wanted)}`)
      })

    test('folds a cache range by range as it folds it whole, and nothing outside a range', async () => {
      const { engine } = engines
      const { kvHeads, headDim, vocab } = engine.shape
      const folded = async (ranges: readonly (Positions | undefined)[]) => {
        const x = await engine.embed(Int32Array.from(tokensOf(20, vocab, 5)))
        const q = await engine.project(0, x, 100, engine.createKv(100, 20))
        const acc = engine.accumulator(q)
        const kv = engine.createKv(30, 120)
        const random = seededRandom(4)
        const values = Float32Array.from({ length: 2 * kvHeads * 120 * headDim }, () => random() * 4 - 2)
        await engine.importKv(kv, 30, 120, { dtype: 'f32', bytes: new Uint8Array(values.buffer) })
        for (const range of ranges) await engine.attend(0, q, kv, acc, range)
        engine.release(q)
        return engine.logits(await engine.mix(0, x, acc))
      }
      const range = (start: number, end: number): Positions => ({ start, count: end - start })
      const whole = await folded([undefined])
      const parts = [range(60, 103), range(30, 31), range(103, 150), range(31, 60)]
      assert.ok(maxAbsDifference(await folded(parts), whole) < TOLERANCE)
      assert.ok(maxAbsDifference(await folded(parts.slice(1)), whole) > TOLERANCE)
      for (const outside of [range(29, 40), range(140, 151), range(40, 40)])
        await assert.rejects(folded([outside]), codeIs('kv_shape'))
    })

    test('changes nothing when no key is visible', async () => {
      const without = await attended(engines.engine, 10, 5, [[0, 12]])
      const withInvisible = await attended(engines.engine, 10, 5, [
        [15, 40],
        [0, 12],
        [700, 800],
      ]) // prettier-ignore
      assert.deepEqual(withInvisible, without)
    })

    test('gives zero attention, not NaN, to a row that saw no key though its block was folded', async () => {
      const none = await attended(engines.engine, 10, 1, [])
      const beyond = await attended(engines.engine, 10, 1, [[11, 50]])
      assert.ok(none.every(Number.isFinite))
      assert.deepEqual(beyond, none)
    })
  })
}

/** KV on the wire, measured by the plain loops of `wire-codec.ts`. */
function transport(name: Candidate): void {
  describe('on the wire', () => {
    const engines = enginesFor(name, { heads: 6, kvHeads: 3, headDim: 10 })
    const headDim = 10
    const rowsOf = (count: number) => 2 * 3 * count

    /** A cache at [5, 50) whose positions [start, start + count) hold `values`, in the order of the wire. */
    async function holding(values: Float32Array<ArrayBuffer>, start: number, count: number): Promise<Kv> {
      const { engine } = engines
      const kv = engine.createKv(5, 45)
      await engine.importKv(kv, 5, 45, f32(new Float32Array(rowsOf(45) * headDim).fill(7)))
      await engine.importKv(kv, start, count, f32(values))
      return kv
    }

    /** Numbers of many magnitudes, of both signs. */
    const spread = (count: number, seed: number) => {
      const random = seededRandom(seed)
      return Float32Array.from({ length: rowsOf(count) * headDim }, () => (random() - 0.5) * 10 ** (random() * 10 - 6))
    }

    for (const count of [1, 3, 40])
      for (const wire of WIRES)
        test(`encodes and decodes ${count} tokens in ${wire} as the formulas do, and touches no others`, async () => {
          const { engine } = engines
          const values = spread(count, count)
          const encoded = await engine.exportKv(await holding(values, 8, count), 8, count, wire)
          assert.equal(encoded.dtype, wire)
          assert.deepEqual(encoded.bytes, encodeRows(values, headDim, wire))

          const fresh = await holding(spread(count, 77), 8, count)
          const unaligned = new Uint8Array(encoded.bytes.length + 1).subarray(1)
          unaligned.set(encoded.bytes)
          await engine.importKv(fresh, 8, count, { dtype: wire, bytes: unaligned })
          const decoded = decodeRows(encoded, headDim)
          assert.deepEqual(await exported32(engine, fresh, 8, count), decoded)
          for (const [start, beside] of [
            [5, 3],
            [8 + count, 42 - count],
          ] as const)
            assert.ok((await exported32(engine, fresh, start, beside)).every((value) => value === 7))

          const most = { f32: () => 0, f16: halfStep, int8: (_: number, row: number) => int8Step(values, row) }[wire]
          values.forEach((value, i) => {
            const error = Math.abs(value - decoded[i]!)
            assert.ok(error <= most(value, Math.floor(i / headDim)), `${value} became ${decoded[i]}`)
          })
        })

    /** Half a unit in the last place of a half, with its smallest for what is below its normal range. */
    const halfStep = (value: number): number => Math.max(2 ** -25, Math.abs(value) * 2 ** -11)
    const int8Step = (values: Float32Array, row: number): number => {
      const most = Math.max(...values.subarray(row * headDim, (row + 1) * headDim).map(Math.abs))
      return (most / 127 / 2) * (1 + 1e-5)
    }

    test('takes every half, and rounds ties to even', async () => {
      const { engine } = engines
      const halves = Uint16Array.from({ length: 0x7c00 }, (_, bits) => bits)
      const singles = new Float32Array(halves.length)
      widenF16(halves, singles)
      const between = singles.slice(0, -1).map((value, i) => (value + singles[i + 1]!) / 2)
      for (const [from, wanted] of [
        [singles, (i: number) => i],
        [between, (i: number) => i + (i % 2)],
      ] as const)
        for (let at = 0; at < from.length; at += rowsOf(40) * headDim)
          for (const sign of [1, -1]) {
            const values = new Float32Array(rowsOf(40) * headDim)
            values.set(from.subarray(at, at + values.length).map((value) => value * sign))
            const { bytes } = await engine.exportKv(await holding(values, 5, 40), 5, 40, 'f16')
            const bits = new Uint16Array(bytes.buffer)
            for (let i = 0; i < Math.min(values.length, from.length - at); i++)
              assert.equal(bits[i], wanted(at + i) | (sign < 0 ? 0x8000 : 0), `${values[i]}`)
          }
    })

    test('sends a block of zeros as zeros', async () => {
      const { engine } = engines
      const values = new Float32Array(rowsOf(9) * headDim)
      const kv = await holding(values, 5, 9)
      for (const wire of WIRES) {
        const encoded = await engine.exportKv(kv, 5, 9, wire)
        assert.equal(encoded.dtype, wire)
        assert.ok(encoded.bytes.every((byte) => byte === 0))
        assert.deepEqual(decodeRows(encoded, headDim), values)
      }
    })

    const { NaN: notANumber, POSITIVE_INFINITY: infinity } = Number
    for (const { value, kept } of [
      { value: 65_519, kept: ['f16', 'int8'] },
      { value: 65_520, kept: ['int8'] },
      { value: -65_520, kept: ['int8'] },
      { value: 3e38, kept: ['int8'] },
      { value: 1e-44, kept: ['f16', 'int8'] },
      { value: infinity, kept: [] },
      { value: -infinity, kept: [] },
      { value: notANumber, kept: [] },
    ])
      test(`sends a block with ${value} in it in f32 where what was asked for cannot hold it`, async () => {
        const { engine } = engines
        for (const place of [0, 4, rowsOf(13) * headDim - 1]) {
          const values = spread(13, 3)
          values[place] = value
          const kv = await holding(values, 5, 13)
          for (const wire of ['f16', 'int8'] as const) {
            const encoded = await engine.exportKv(kv, 5, 13, wire)
            assert.equal(encoded.dtype, kept.includes(wire) ? wire : 'f32')
            if (encoded.dtype === 'f32') assert.deepEqual(new Float32Array(encoded.bytes.buffer), values)
            else assert.ok(decodeRows(encoded, headDim).every(Number.isFinite))
          }
        }
      })
  })
}

function refusals(name: Candidate): void {
  describe('refuses by code', () => {
    const engines = enginesFor(name)

    test('a token id outside the vocabulary', async () => {
      const { engine } = engines
      for (const id of [-1, engine.shape.vocab])
        await assert.rejects(engine.embed(Int32Array.of(1, id)), codeIs('invalid_request'))
    })

    test('a chunk outside the KV it is projected into', async () => {
      const { engine } = engines
      const x = await engine.embed(Int32Array.of(1, 2, 3))
      for (const start of [7, 12])
        await assert.rejects(engine.project(0, x, start, engine.createKv(8, 6)), codeIs('kv_shape'))
    })

    test('a step outside the KV that it is written into', async () => {
      const { engine } = engines
      for (const position of [7, 14])
        await assert.rejects(
          engine.step(
            await engine.embed(Int32Array.of(1)),
            position,
            Array.from({ length: engine.shape.layers }, () => engine.createKv(8, 6)),
          ),
          codeIs('kv_shape'),
        )
    })

    test('an import or export whose length or place does not match', async () => {
      const { engine } = engines
      const kv = engine.createKv(8, 6)
      for (const dtype of WIRES) {
        const { bytes } = await engine.exportKv(kv, 9, 4, dtype)
        for (const wrong of [bytes.subarray(1), new Uint8Array(bytes.length + 1), new Uint8Array(0)])
          await assert.rejects(engine.importKv(kv, 9, 4, { dtype, bytes: wrong }), codeIs('kv_shape'))
        for (const other of WIRES.filter((wire) => wire !== dtype))
          await assert.rejects(engine.importKv(kv, 9, 4, { dtype: other, bytes }), codeIs('kv_shape'))
        for (const start of [7, 11])
          await assert.rejects(engine.importKv(kv, start, 4, { dtype, bytes }), codeIs('kv_shape'))
        for (const count of [0, 7]) await assert.rejects(engine.exportKv(kv, 8, count, dtype), codeIs('kv_shape'))
      }
    })
  })
}

const llama3Rope = {
  rope_type: 'llama3',
  rope_theta: 50_000,
  factor: 4,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
}

const slidingMistral = {
  architectures: ['MistralForCausalLM'],
  model_type: 'mistral',
  rope_theta: 10_000,
  sliding_window: 20,
}

function shapes(name: Candidate): void {
  describe('agrees with the reference on', () => {
    const models: [string, Partial<TinyModelOptions>][] = [
      ['a head_dim that is not hidden / heads', { hidden: 40, heads: 4, headDim: 14, dtype: 'BF16' }],
      ['one KV head', { heads: 6, kvHeads: 1, headDim: 10, dtype: 'F16' }],
      ['as many KV heads as heads', { heads: 3, kvHeads: 3, headDim: 16, ffn: 37 }],
      ['one head', { heads: 1, kvHeads: 1, headDim: 2, hidden: 17, layers: 1, vocab: 5 }],
      ['an untied head in shards', { tied: false, shards: 3, dtype: 'BF16', vocab: 131 }],
      ['linear rope', { config: { rope_theta: 10_000, rope_scaling: { type: 'linear', factor: 2.5 } } }],
      ['a window', { config: slidingMistral }],
      ['llama3 rope', { headDim: 32, config: { rope_parameters: llama3Rope } }],
    ]
    for (const [what, options] of models)
      describe(what, () => {
        const engines = enginesFor(name, { ...options, seed: what.length })

        for (const blockTokens of [50, 100])
          test(`over a run with decoding, in blocks of ${blockTokens}`, async () => {
            const logitsOf = async (engine: Engine) => {
              const run = new PlainRun(engine, 100, { chunkTokens: 33, blockTokens })
              const tokens = tokensOf(93, engine.shape.vocab)
              return [await run.feed(tokens.slice(0, 91)), await run.feed([tokens[91]!]), await run.feed([tokens[92]!])]
            }
            const got = await logitsOf(engines.engine)
            const wanted = await logitsOf(engines.oracle)
            got.forEach((logits, i) => {
              assert.ok(maxAbsDifference(logits, wanted[i]!) < TOLERANCE)
            })
          })
      })
  })
}
