import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { readModelShape } from '../../../shared/model-folder.ts'
import { bf16Linear } from '../../../worker/engine/onnx/linear/bf16.ts'
import { type Int4Matrix, int4Scales } from '../../../worker/engine/onnx/linear/int4.ts'
import { int4WidenedLinear } from '../../../worker/engine/onnx/linear/int4-formats.ts'
import { int8Linear } from '../../../worker/engine/onnx/linear/int8.ts'
import type { LinearFormat } from '../../../worker/engine/onnx/linear/linear.ts'
import { PLAIN } from '../../../worker/engine/reference-engine.ts'
import { loadWeights, type ModelWeights } from '../../../worker/model/weights.ts'
import { widenBf16 } from '../../../worker/model/widen.ts'
import { convertFolder } from '../../support/gguf/convert.ts'
import { maxAbsDifference } from '../../support/numbers.ts'
import { fixture } from '../../support/paths.ts'

type Floats = Float32Array<ArrayBuffer>

/** Every matrix of a model, in one order. */
const matricesOf = <M>({ layers }: ModelWeights<M>): M[] =>
  layers.flatMap(({ attention, mlp }) => [...Object.values(attention), ...Object.values(mlp ?? {})])

const neverAsFloats = (): never => assert.fail('a matrix was read as float32')

describe('what a GGUF file has in blocks', () => {
  let folder: string
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'headrace-stored-'))
  })
  after(() => rm(folder, { recursive: true }))

  /** The matrices as they are kept and the numbers that the file stands for; phi3 has several matrices in one tensor. */
  async function load<M>(type: 'Q4_0' | 'Q8_0' | 'BF16', linear: LinearFormat<M>, model: string) {
    const path = await convertFolder(fixture(model), join(folder, `${model}-${type}.gguf`), { type })
    const shape = await readModelShape(path)
    const plain = matricesOf(await loadWeights(path, shape, PLAIN))
    const keeping = { ...linear, keep: neverAsFloats, keepHead: undefined, keepLayer: <L>(layer: L) => layer }
    return { plain, kept: matricesOf(await loadWeights<M, never>(path, shape, keeping as never)) as M[] }
  }

  for (const model of ['llama', 'phi3']) {
    test(`is taken as it is: Q4_0 by int4, in ${model}`, async () => {
      const { plain, kept } = await load('Q4_0', int4WidenedLinear(127), model)
      assert.ok(plain.length > 0)
      for (const [i, matrix] of (kept as Int4Matrix[]).entries()) {
        const scales = int4Scales(matrix)
        const values = Float32Array.from({ length: matrix.out * matrix.in }, (_, at) => {
          const byte = matrix.nibbles_out_in[at >> 1]!
          return scales[at >> 5]! * ((at & 1 ? byte >> 4 : byte & 15) - 8)
        })
        assert.deepEqual(values, plain[i])
      }
    })

    test(`is taken as it is: BF16 by bf16, in ${model}`, async () => {
      const { plain, kept } = await load('BF16', bf16Linear(), model)
      for (const [i, { bits_out_in }] of kept.entries()) {
        const values = new Float32Array(bits_out_in.length)
        widenBf16(bits_out_in, values)
        assert.deepEqual(values, plain[i])
      }
    })

    test(`is rounded once more: Q8_0 by int8, in ${model}`, async () => {
      const { plain, kept } = await load('Q8_0', int8Linear(127), model)
      for (const [i, { values_in_out, scale_out, out, in: width }] of kept.entries()) {
        const values: Floats = new Float32Array(out * width)
        for (let o = 0; o < out; o++)
          for (let at = 0; at < width; at++) values[o * width + at] = values_in_out[at * out + o]! * scale_out[o]!
        const step = Math.max(...scale_out)
        assert.ok(maxAbsDifference(values, plain[i]!) <= 0.501 * step)
      }
    })
  }
})
