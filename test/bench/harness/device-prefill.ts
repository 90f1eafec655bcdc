import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Engine } from '../../../worker/engine/engine.ts'
import { GraphBuilder } from '../../../worker/engine/onnx/graph-builder.ts'
import type { DeviceModel } from '../../../worker/engine/webgpu/device-model.ts'
import {
  DeviceSessions,
  type DeviceTensor,
  hostTensor,
  type Provider,
} from '../../../worker/engine/webgpu/device-sessions.ts'
import type { DeviceWeights } from '../../../worker/engine/webgpu/device-weights.ts'
import { seededRandom } from '../../support/random.ts'

/** Prefill of a random model whose weights are made on the device: no checkpoint of its size has to be written or sent. */

/** Numbers of a piece of the head, and of one random embedding row after the other until they repeat. */
const PIECE = 32 << 20
const DISTINCT = 1 << 20

/** x of the first input times y of the second is an angle; its sine is as good as noise, of any size from few numbers. */
function randomGraph({ element }: DeviceModel, g: GraphBuilder): Uint8Array {
  const angle = g.op('Mul', [g.input('rows', ['I', 1]), g.input('columns', [1, 'O'])])
  const values = g.op('Mul', [g.op('Sin', [angle]), g.input('scale', [1])])
  g.output('y', g.op('Cast', [values], { to: { type: element } }), ['I', 'O'], element)
  return g.build('random')
}

/** Weights of the size of trained ones: a product keeps the size of what it multiplies. */
export async function randomDeviceWeights(model: DeviceModel, sessions: DeviceSessions): Promise<DeviceWeights> {
  const { hidden, heads, kvHeads, headDim, ffn, vocab, layers } = model.shape
  await sessions.add('random', randomGraph(model, new GraphBuilder()))
  const random = seededRandom(5)
  const numbers = (count: number, most: number) => Float32Array.from({ length: count }, () => (random() - 0.5) * most)
  const matrix = async (width: number, out: number): Promise<DeviceTensor> => {
    const { y } = await sessions.run('random', {
      rows: hostTensor(numbers(width, 50), [width, 1]),
      columns: hostTensor(numbers(out, 50), [1, out]),
      scale: hostTensor(Float32Array.of(Math.sqrt(2 / width)), [1]),
    })
    return y!
  }
  const { y: gain } = await sessions.run('vector', { x: hostTensor(new Float32Array(hidden).fill(1), [hidden]) })
  const made = []
  for (let layer = 0; layer < layers; layer++)
    made.push({
      project: {
        attention_norm: gain!,
        q_weight: await matrix(hidden, heads * headDim),
        k_weight: await matrix(hidden, kvHeads * headDim),
        v_weight: await matrix(hidden, kvHeads * headDim),
      },
      mix: {
        mlp_norm: gain!,
        o_weight: await matrix(heads * headDim, hidden),
        gate_weight: await matrix(hidden, ffn),
        up_weight: await matrix(hidden, ffn),
        down_weight: await matrix(ffn, hidden),
      },
      experts: [],
    })
  const head = []
  const rows = Math.floor(PIECE / hidden)
  for (let from = 0; from < vocab; from += rows) head.push(await matrix(hidden, Math.min(rows, vocab - from)))
  return { embedding_vocab_dim: randomRows(vocab * hidden, random), layers: made, final_norm: gain!, head }
}

/** bfloat16 bits of numbers between -1 and 1. */
function randomRows(count: number, random: () => number): Uint16Array<ArrayBuffer> {
  const rows = new Uint16Array(count)
  const distinct = Math.min(count, DISTINCT)
  const words = new Uint32Array(Float32Array.from({ length: distinct }, () => random() * 2 - 1).buffer)
  for (let i = 0; i < distinct; i++) rows[i] = words[i]! >>> 16
  for (let done = distinct; done < count; done *= 2) rows.copyWithin(done, 0, Math.min(done, count - done))
  return rows
}

/** Seconds from tokens to logits. */
export async function timePrefill(engine: Engine, tokens: number, chunkTokens: number): Promise<number> {
  const { layers, vocab } = engine.shape
  const kv_layers = Array.from({ length: layers }, () => engine.createKv(0, tokens))
  const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % vocab)
  const started = performance.now()
  let logits = new Float32Array(0) as Float32Array
  for (let start = 0; start < tokens; start += chunkTokens) {
    let x = await engine.embed(ids.subarray(start, start + chunkTokens))
    const last = start + chunkTokens >= tokens
    for (const [layer, kv] of kv_layers.entries()) {
      const q = await engine.project(layer, x, start, kv)
      if (layer === layers - 1 && !last) {
        engine.release(q) // of the last layer, only the last chunk's rows are of use to anybody
        break
      }
      const acc = engine.accumulator(q)
      await engine.attend(layer, q, kv, acc)
      engine.release(q)
      x = await engine.mix(layer, x, acc)
    }
    if (last) logits = await engine.logits(x)
    engine.release(x)
  }
  const seconds = (performance.now() - started) / 1000
  engine.release(...kv_layers)
  if (!logits.every(Number.isFinite)) throw new Error('the logits of a random model are not finite')
  return seconds
}

/** GFLOP/s of [rows, width] times [width, out] on the device, weights there already; the best of a few rounds. */
export async function productGflops(
  provider: Provider,
  element: DeviceModel['element'],
  { rows, width, out }: { rows: number; width: number; out: number },
): Promise<number> {
  const sessions = new DeviceSessions(provider)
  const shape = { hidden: width } as ModelShape
  await sessions.add('random', randomGraph({ shape, element }, new GraphBuilder()))
  const g = new GraphBuilder()
  const [a, b] = [g.input('a', ['S', width], element), g.input('b', [width, out], element)]
  g.output('y', g.op('MatMul', [a, b]), ['S', out], element)
  await sessions.add('product', g.build('product'))
  const first = new GraphBuilder()
  const one = first.op('Slice', [first.input('x', ['S', out], element), first.ints(0), first.ints(1), first.ints(0)])
  first.output('y', first.op('Cast', [one], { to: { type: 'float32' } }), [1, out])
  await sessions.add('first', first.build('first'), true)
  const random = async (rowCount: number, columns: number): Promise<DeviceTensor> => {
    const line = (count: number) => Float32Array.from({ length: count }, (_, i) => Math.sin(i) * 30)
    const { y } = await sessions.run('random', {
      rows: hostTensor(line(rowCount), [rowCount, 1]),
      columns: hostTensor(line(columns), [1, columns]),
      scale: hostTensor(Float32Array.of(0.1), [1]),
    })
    return y!
  }
  const inputs = { a: await random(rows, width), b: await random(width, out) }
  let best = 0
  for (const calls of [1, 4, 16, 16, 16]) {
    const started = performance.now()
    let last: DeviceTensor | undefined
    for (let call = 0; call < calls; call++) {
      last?.dispose()
      last = (await sessions.run('product', inputs))['y']!
    }
    await sessions.run('first', { x: last! })
    last!.dispose()
    best = Math.max(best, (calls * 2 * rows * width * out) / (performance.now() - started) / 1e6)
  }
  inputs.a.dispose()
  inputs.b.dispose()
  await sessions.release()
  return best
}
