import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { Engine } from '../../../worker/engine/engine.ts'
import { GraphBuilder } from '../../../worker/engine/onnx/graph-builder.ts'
import { bf16Linear } from '../../../worker/engine/onnx/linear/bf16.ts'
import { f32Linear } from '../../../worker/engine/onnx/linear/f32.ts'
import { quantiseInt4 } from '../../../worker/engine/onnx/linear/int4.ts'
import { int4BlocksLinear, int4WidenedLinear } from '../../../worker/engine/onnx/linear/int4-formats.ts'
import { int8Linear } from '../../../worker/engine/onnx/linear/int8.ts'
import { int8BlocksLinear } from '../../../worker/engine/onnx/linear/int8-blocks.ts'
import { int8RowLinear } from '../../../worker/engine/onnx/linear/int8-row.ts'
import type { FormatInUse, LinearFormat } from '../../../worker/engine/onnx/linear/linear.ts'
import { largestExactWeight } from '../../../worker/engine/onnx/linear/self-test.ts'
import { fromQ4_0, fromQ8_0, Q4_0_BYTES, Q8_0_BYTES } from '../../../worker/engine/onnx/linear/stored-blocks.ts'
import { runOnce, type Slots } from '../../../worker/engine/onnx/session-set.ts'
import { widenF16 } from '../../../worker/model/widen.ts'
import { logProbability, maxAbsDifference } from '../../support/numbers.ts'
import { bundledModel } from '../../support/paths.ts'
import { PlainRun } from '../../support/plain-run.ts'
import { seededRandom } from '../../support/random.ts'
import { createTinyModel } from '../../support/tiny-model.ts'

const [SEQ, IN, OUT] = [5, 96, 40]
const random = seededRandom(11)
const gaussian = (count: number): Float32Array<ArrayBuffer> =>
  Float32Array.from({ length: count }, () => random() + random() + random() - 1.5)
const x_seq_in = gaussian(SEQ * IN)
const w_out_in = gaussian(OUT * IN)

/** x W^T by a format, through a graph of its own. `bound`: the weights are part of it. */
async function product<M>(format: LinearFormat<M>, x: Float32Array<ArrayBuffer>, fine: boolean, bound = false) {
  return productBy(format, format.keep({ values_out_in: w_out_in.slice(), out: OUT, in: IN }), x, fine, bound)
}

async function productBy<M>(
  format: FormatInUse<M>,
  matrix: M,
  x: Float32Array<ArrayBuffer>,
  fine: boolean,
  bound = false,
) {
  const weights = format.slots('w', matrix)
  const g = new GraphBuilder(bound ? weights : {})
  const input = g.input('x', [1, 'S', IN])
  g.output('y', format.multiplicand(g, input, IN, fine)('w', OUT), [1, 'S', OUT])
  const seq = x.length / IN
  const y = new Float32Array(seq * OUT)
  const inputs: Slots = { x: [x, [1, seq, IN]], ...(bound ? {} : weights) }
  await runOnce(g.build('product'), inputs, { y: [y, [1, seq, OUT]] })
  return y
}

/** Root mean square error over root mean square. */
function relativeError(found: Float32Array, exact: Float32Array): number {
  const squares = (values: Float32Array) => values.reduce((sum, value) => sum + value * value, 0)
  return Math.sqrt(squares(found.map((value, i) => value - exact[i]!)) / squares(exact))
}

const half = (bits: number): number => {
  const value = new Float32Array(1)
  widenF16(Uint16Array.of(bits), value)
  return value[0]!
}

/** Random blocks of 32 numbers behind a scale between 1/32 and 1/8 each, and what they stand for by `steps`. */
function storedBlocks(blockBytes: number, steps: (bytes: Uint8Array, at: number, i: number) => number) {
  const bytes = Uint8Array.from({ length: (OUT * IN * blockBytes) / 32 }, () => random() * 256)
  for (let at = 0; at < bytes.length; at += blockBytes) bytes[at + 1] = 0x28 | (bytes[at + 1]! & 0x87)
  const values = Float32Array.from({ length: OUT * IN }, (_, n) => {
    const at = Math.floor(n / 32) * blockBytes
    return half(bytes[at]! | (bytes[at + 1]! << 8)) * steps(bytes, at, n % 32)
  })
  return { bytes, values }
}

describe('linear layers', () => {
  const exact = (x: Float32Array) =>
    Float32Array.from({ length: SEQ * OUT }, (_, at) => {
      const [s, o] = [Math.floor(at / OUT), at % OUT]
      let sum = 0
      for (let i = 0; i < IN; i++) sum += x[s * IN + i]! * w_out_in[o * IN + i]!
      return sum
    })

  test('in float32 are products', async () => {
    assert.ok(maxAbsDifference(await product(f32Linear, x_seq_in, false), exact(x_seq_in)) < 1e-4)
  })

  test('in bfloat16 are off by the rounding of the weights', async () => {
    const error = relativeError(await product(bf16Linear(), x_seq_in, false), exact(x_seq_in))
    assert.ok(error > 1e-4 && error < 3e-3, String(error))
  })

  for (const largest of [127, 63])
    test(`in 8 bits with weights up to ${largest} are off by a step in each number`, async () => {
      const most = largest === 127 ? 0.012 : 0.02
      const error = relativeError(await product(int8Linear(largest), x_seq_in, false), exact(x_seq_in))
      assert.ok(error > 1e-4 && error < most, String(error))
    })

  test('in 8 bits where they are fine have the error of the weights alone', async () => {
    const spiked = x_seq_in.slice()
    for (let s = 0; s < SEQ; s++) spiked[s * IN + 3] = 60
    const smallExact = exact(spiked)
    const once = relativeError(await product(int8Linear(127), spiked, false), smallExact)
    const twice = relativeError(await product(int8Linear(127), spiked, true), smallExact)
    assert.ok(twice < 0.008 && once > 2 * twice, `${once} ${twice}`)
  })

  test('in blocks of 8 bits are off by less than a step in each number, one row or many', async () => {
    const spiked = x_seq_in.slice()
    for (let s = 0; s < SEQ; s++) spiked[s * IN + 3] = 60 // spoils its own block only
    for (const [x, most] of [
      [x_seq_in, 0.009],
      [spiked, 0.03],
    ] as const) {
      const rows = await product(int8BlocksLinear, x, false, true)
      const error = relativeError(rows, exact(x))
      assert.ok(error > 1e-4 && error < most, String(error))
      const first = await product(int8BlocksLinear, x.slice(0, IN), false, true)
      assert.ok(maxAbsDifference(first, rows.subarray(0, OUT)) < 1e-4 * 60)
    }
  })

  test('in blocks of 8 bits take a block of zeros', async () => {
    const y = await product(int8BlocksLinear, new Float32Array(IN), false, true)
    assert.ok(y.every((value) => value === 0))
  })

  const rowFormat = int8RowLinear(int8Linear(127))
  const forARow = async (x: Float32Array<ArrayBuffer>, fine: boolean) => {
    const dense = { values_out_in: w_out_in.slice(), out: OUT, in: IN, fine }
    return productBy(rowFormat, rowFormat.keep(dense, int8Linear(127).keep(dense)), x, fine, true)
  }

  for (const [fine, most] of [
    [false, 0.012],
    [true, 0.009],
  ] as const)
    test(`in 8 bits for a row are off by a step in each number, ${fine ? 'of its block' : 'of the row'}`, async () => {
      const error = relativeError(await forARow(x_seq_in.slice(0, IN), fine), exact(x_seq_in).subarray(0, OUT))
      assert.ok(error > 1e-4 && error < most, String(error))
    })

  test('in 8 bits have for a row of the head the error of the weights alone', async () => {
    const spiked = x_seq_in.slice()
    spiked[3] = 60
    const head = { ...rowFormat, multiplicand: rowFormat.head!, keep: int8Linear(127).keep }
    const error = relativeError(await product(head, spiked.slice(0, IN), true, true), exact(spiked).subarray(0, OUT))
    assert.ok(error > 1e-4 && error < 0.008, String(error))
  })

  test('in 8 bits take a row of zeros, alone or among others', async () => {
    const nothing = new Float32Array(IN)
    for (const fine of [false, true]) assert.ok((await forARow(nothing, fine)).every((value) => value === 0))
    const head = { ...rowFormat, multiplicand: rowFormat.head!, keep: int8Linear(127).keep }
    assert.ok((await product(head, nothing, true, true)).every((value) => value === 0))
    const zeros = x_seq_in.slice().fill(0, IN, 2 * IN)
    const y = await product(int8Linear(127), zeros, true)
    assert.ok(y.subarray(OUT, 2 * OUT).every((value) => value === 0))
  })

  const widened = int4WidenedLinear(127)
  const dequantised = ({ nibbles_out_in, scales_out_block }: ReturnType<typeof quantiseInt4>) =>
    Float32Array.from({ length: OUT * IN }, (_, at) => {
      const steps = (nibbles_out_in[at >> 1]! >> (4 * (at % 2))) & 15
      return (steps - 8) * half(scales_out_block[at >> 5]!)
    })

  test('in 4 bits are off by less than the nearest of 15 even steps', () => {
    const found = relativeError(dequantised(quantiseInt4({ values_out_in: w_out_in, out: OUT, in: IN })), w_out_in)
    const even = w_out_in.map((w, at) => {
      const block = w_out_in.subarray(at - (at % 32), at - (at % 32) + 32)
      const scale = Math.max(...block.map(Math.abs)) / 7
      return Math.round(w / scale) * scale
    })
    assert.ok(found < 0.9 * relativeError(even, w_out_in), String(found))
    assert.ok(found > 0.04, String(found))
  })

  test('in 4 bits are products of the rounded weights, one row or many, packed or widened', async () => {
    const matrix = quantiseInt4({ values_out_in: w_out_in, out: OUT, in: IN })
    const weights = dequantised(matrix)
    const rounded = Float32Array.from({ length: SEQ * OUT }, (_, at) => {
      const [s, o] = [Math.floor(at / OUT), at % OUT]
      let sum = 0
      for (let i = 0; i < IN; i++) sum += x_seq_in[s * IN + i]! * weights[o * IN + i]!
      return sum
    })
    for (const found of [
      await productBy(int4BlocksLinear, matrix, x_seq_in, false, true),
      await productBy(widened, matrix, x_seq_in, false),
      await productBy(int4WidenedLinear(63), matrix, x_seq_in, true),
    ]) {
      const error = relativeError(found, rounded)
      assert.ok(error > 1e-4 && error < 0.015, String(error))
    }
    const first = await productBy(int4BlocksLinear, matrix, x_seq_in.slice(0, IN), false, true)
    assert.ok(relativeError(first, rounded.subarray(0, OUT)) < 0.015)
  })

  test('in 4 bits are widened anew when another matrix comes', async () => {
    const one = quantiseInt4({ values_out_in: w_out_in, out: OUT, in: IN })
    const other = quantiseInt4({ values_out_in: w_out_in.map((w) => -2 * w), out: OUT, in: IN })
    const [before, between, after] = [
      await productBy(widened, one, x_seq_in, true),
      await productBy(widened, other, x_seq_in, true),
      await productBy(widened, one, x_seq_in, true),
    ]
    assert.deepEqual(after, before)
    assert.ok(
      relativeError(
        between.map((y) => y / -2),
        before,
      ) < 0.12,
    )
  })

  test('in 4 bits take a width that is no multiple of a block, zeros, and an odd width', () => {
    const [out, width] = [3, 45]
    const values_out_in = w_out_in.slice(0, out * width).fill(0, width, 2 * width)
    const matrix = quantiseInt4({ values_out_in, out, in: width })
    const slots = int4WidenedLinear(127).slots('w', matrix)
    const [values] = slots['w']! as [Int8Array, number[]]
    const [scales] = slots['w_scale']! as [Float32Array, number[]]
    const back = values_out_in.map(
      (_, at) => values[(at % width) * out + Math.floor(at / width)]! * scales[Math.floor(at / width)]!,
    )
    assert.ok(relativeError(back, values_out_in) < 0.12)
    assert.ok(back.subarray(width, 2 * width).every((value) => value === 0))
  })

  test('take blocks of Q4_0 as they are', () => {
    const { bytes, values } = storedBlocks(Q4_0_BYTES, (bytes, at, i) => {
      const byte = bytes[at + 2 + (i % 16)]!
      return (i < 16 ? byte & 15 : byte >> 4) - 8
    })
    assert.deepEqual(dequantised(fromQ4_0(bytes, OUT, IN)), values)
  })

  test('take blocks of Q8_0 with one scale to an output', () => {
    const { bytes, values } = storedBlocks(Q8_0_BYTES, (bytes, at, i) => (bytes[at + 2 + i]! << 24) >> 24)
    const { values_in_out, scale_out } = fromQ8_0(bytes, OUT, IN, 127)
    const back = values.map(
      (_, at) => values_in_out[(at % IN) * OUT + Math.floor(at / IN)]! * scale_out[Math.floor(at / IN)]!,
    )
    for (const [at, value] of values.entries())
      assert.ok(Math.abs(back[at]! - value) <= scale_out[Math.floor(at / IN)]! * 0.5001, `${value} ${back[at]}`)
    assert.ok(relativeError(back, values) < 0.01)
  })

  test('know the largest weight of this processor', async () => {
    assert.ok([63, 127].includes(await largestExactWeight()))
  })
})

/** Kullback-Leibler divergence of softmax(found) from softmax(exact), nats. */
const divergence = (exact: Float32Array, found: Float32Array): number =>
  exact.reduce((sum, _, i) => {
    const logP = logProbability(exact, i)
    return sum + Math.exp(logP) * (logP - logProbability(found, i))
  }, 0)

describe('the onnx engine', () => {
  const tokens = Array.from({ length: 90 }, (_, i) => (i * 37) % 61)
  const cutting = { chunkTokens: 40, blockTokens: 64 }

  test('computes the same with bfloat16 weights as with float32, where the checkpoint is bfloat16', async (t) => {
    for (const tied of [true, false]) {
      const model = await createTinyModel({ dtype: 'BF16', tied })
      t.after(() => model.remove())
      const run = async (weights: 'f32' | 'bf16') => {
        const engine = await createEngine('onnx', model.folder, { threads: 1, weights })
        t.after(() => engine.close())
        return new PlainRun(engine, tokens.length, cutting).feed(tokens)
      }
      assert.deepEqual(await run('bf16'), await run('f32'))
    }
  })

  test('computes the same with packed weights, as a decode node has them', async (t) => {
    const model = await createTinyModel({ dtype: 'BF16' })
    t.after(() => model.remove())
    const run = async (decodes: boolean) => {
      const engine = await createEngine('onnx', model.folder, { threads: 1, decodes })
      t.after(() => engine.close())
      return new PlainRun(engine, tokens.length, cutting).feed(tokens)
    }
    assert.ok(maxAbsDifference(await run(true), await run(false)) < 1e-5)
  })

  test('stays near float32 with int8 weights, wherever a prompt ends', async (t) => {
    const engine = await createEngine('onnx', bundledModel, { threads: 1, weights: 'int8' })
    const exact = await createEngine('onnx', bundledModel, { threads: 1 })
    t.after(() => Promise.all([engine.close(), exact.close()]))
    const ids = Array.from({ length: 300 }, (_, i) => (i * 7919) % engine.shape.vocab)
    const divergences = []
    for (const length of [1, 17, 100, 300]) {
      const feed = (one: Engine) => new PlainRun(one, length, cutting).feed(ids.slice(0, length))
      divergences.push(divergence(await feed(exact), await feed(engine)))
    }
    assert.ok(Math.max(...divergences) < 2e-2, divergences.join(' '))
  })

  test('stays near float32 where a decode node has int8 weights, token by token', async (t) => {
    const engine = await createEngine('onnx', bundledModel, { threads: 1, weights: 'int8', decodes: true })
    const exact = await createEngine('onnx', bundledModel, { threads: 1, decodes: true })
    t.after(() => Promise.all([engine.close(), exact.close()]))
    const ids = Array.from({ length: 60 }, (_, i) => (i * 7919) % engine.shape.vocab)
    const [run, exactRun] = [engine, exact].map((one) => new PlainRun(one, ids.length, cutting))
    const divergences = [divergence(await exactRun!.feed(ids.slice(0, 40)), await run!.feed(ids.slice(0, 40)))]
    for (const id of ids.slice(40)) divergences.push(divergence(await exactRun!.feed([id]), await run!.feed([id])))
    assert.ok(Math.max(...divergences) < 0.1, divergences.join(' '))
    assert.ok(Math.max(...divergences) > 0, 'weights of 8 bits are not float32')
  })

  for (const decodes of [false, true])
    test(`stays near float32 with int4 weights, ${decodes ? 'as a decode node' : 'as a worker'}`, async (t) => {
      const engine = await createEngine('onnx', bundledModel, { threads: 1, weights: 'int4', decodes })
      const exact = await createEngine('onnx', bundledModel, { threads: 1 })
      t.after(() => Promise.all([engine.close(), exact.close()]))
      const ids = Array.from({ length: 42 }, (_, i) => (i * 7919) % engine.shape.vocab)
      const [run, exactRun] = [engine, exact].map((one) => new PlainRun(one, ids.length, cutting))
      const divergences = [divergence(await exactRun!.feed(ids.slice(0, 40)), await run!.feed(ids.slice(0, 40)))]
      for (const id of ids.slice(40)) divergences.push(divergence(await exactRun!.feed([id]), await run!.feed([id])))
      assert.ok(Math.max(...divergences) < 0.5, divergences.join(' '))
      assert.ok(Math.min(...divergences) > 1e-6, 'weights of 4 bits are not float32')
    })

  test('has no other weights than float32 in the reference engine', async (t) => {
    const model = await createTinyModel()
    t.after(() => model.remove())
    await assert.rejects(createEngine('reference', model.folder, { threads: 1, weights: 'int8' }), {
      code: 'bad_config',
    })
  })
})
