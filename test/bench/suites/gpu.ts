import { wholeNumber } from '../../../shared/cli/options.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import { probeAdapter } from '../../../worker/engine/webgpu/adapter.ts'
import { buildDeviceEngine } from '../../../worker/engine/webgpu/load.ts'
import { productGflops, randomDeviceWeights, timePrefill } from '../harness/device-prefill.ts'
import { allCalls, prefillFlops } from '../harness/flops.ts'
import { listed, listedNumbers } from '../harness/lists.ts'
import { columns, percent } from '../harness/report.ts'
import { PRESET_NAMES, PRESETS, type PresetName, presetText } from '../models/presets.ts'
import { defineSuite, type SuiteContext } from '../suite.ts'

type Element = 'float16' | 'float32'
const ELEMENTS = ['float16', 'float32'] as const satisfies readonly Element[]

/** How fast `--device webgpu` computes a prompt, against the matrix product of the same GPU through the same runtime. */
export const gpuSuite = defineSuite({
  name: 'gpu',
  describe: 'Prefill of a random model on the GPU, against its matrix product through the same runtime',
  options: {
    preset: { choices: PRESET_NAMES, default: 'llama8b' as PresetName, describe: 'Shape of the model' },
    layers: { type: 'number', describe: 'Only so many of its layers' },
    tokens: { type: 'array', coerce: listedNumbers, default: [2048, 8192, 32_768], describe: 'Lengths of the prompt' },
    chunk: { type: 'array', coerce: listedNumbers, default: [1024], describe: 'Tokens computed at once' },
    elements: {
      type: 'array',
      coerce: listed as (values: readonly unknown[]) => Element[],
      choices: ELEMENTS,
      default: ['float16'],
      describe: 'Precision of weights, KV and products',
    },
    rounds: { type: 'number', default: 2, describe: 'Runs of each, the best of which counts' },
  },
  async run(options, context) {
    const preset = PRESETS[options.preset]
    const layers = wholeNumber('layers', options.layers ?? preset.layers, 1, preset.layers)
    const shape: ModelShape = { ...preset, layers, layerShapes: preset.layerShapes.slice(0, layers) }
    const rounds = wholeNumber('rounds', options.rounds, 1, 100)
    await probeAdapter()
    const ceilings: Ceiling[] = []
    const cells: Cell[] = []
    for (const element of options.elements) {
      ceilings.push(...(await ceilingsOf(shape, element, options.chunk, context)))
      cells.push(
        ...(await cellsOf({ shape, element, chunks: options.chunk, lengths: options.tokens, rounds }, context)),
      )
    }
    return report(`${presetText(options.preset)}; ${shape.layers} layers computed`, ceilings, cells)
  },
})

interface Ceiling {
  readonly element: Element
  readonly product: string
  readonly teraflops: number
}

interface Cell {
  readonly element: Element
  readonly tokens: number
  readonly chunk: number
  readonly seconds: readonly number[]
  readonly teraflop: number
}

interface Shape {
  readonly hidden: number
  readonly ffn: number
}

async function ceilingsOf(
  { hidden, ffn }: Shape,
  element: Element,
  chunks: readonly number[],
  { note, signal }: SuiteContext,
): Promise<Ceiling[]> {
  const found: Ceiling[] = []
  for (const rows of new Set([...chunks, 4 * Math.max(...chunks)]))
    for (const [width, out] of [
      [hidden, hidden],
      [hidden, ffn],
      [ffn, hidden],
    ] as const) {
      signal.throwIfAborted()
      const teraflops = (await productGflops('webgpu', element, { rows, width, out })) / 1000
      found.push({ element, product: `${rows}x${width}x${out}`, teraflops })
      note(`${element} ${found.at(-1)!.product}: ${teraflops.toFixed(1)} TFLOP/s`)
    }
  return found
}

async function cellsOf(
  of: {
    shape: ModelShape
    element: Element
    chunks: readonly number[]
    lengths: readonly number[]
    rounds: number
  },
  { note, signal }: SuiteContext,
): Promise<Cell[]> {
  const model = { shape: of.shape, element: of.element }
  const chunkTokens = Math.max(...of.chunks)
  const load = (sessions: Parameters<typeof randomDeviceWeights>[1]) => randomDeviceWeights(model, sessions)
  const engine = await buildDeviceEngine({ model, provider: 'webgpu', threads: 1, chunkTokens, load })
  const cells: Cell[] = []
  try {
    for (const chunk of of.chunks) {
      await timePrefill(engine, Math.min(2 * chunk, Math.max(...of.lengths)), chunk) // kernels are compiled
      for (const tokens of of.lengths) {
        const seconds: number[] = []
        for (let round = 0; round < of.rounds; round++) {
          signal.throwIfAborted()
          seconds.push(await timePrefill(engine, tokens, chunk))
          note(`${of.element}, ${tokens} tokens in chunks of ${chunk}: ${seconds.at(-1)!.toFixed(2)} s`)
        }
        const teraflop = allCalls(prefillFlops(of.shape, tokens, Math.min(chunk, tokens))) / 1e12
        cells.push({ element: of.element, tokens, chunk, seconds, teraflop })
      }
    }
    return cells
  } finally {
    await engine.close()
  }
}

function report(what: string, ceilings: readonly Ceiling[], cells: readonly Cell[]) {
  const best = (element: Element): number =>
    Math.max(...ceilings.filter((one) => one.element === element).map(({ teraflops }) => teraflops))
  const rateOf = ({ teraflop, seconds }: Cell): number => teraflop / Math.min(...seconds)
  return {
    parts: [
      { line: what },
      {
        title: 'Matrix product, TFLOP/s',
        head: columns('precision, product, TFLOP/s'),
        rows: ceilings.map(({ element, product, teraflops }) => [element, product, teraflops.toFixed(1)]),
      },
      {
        title: 'Prefill (causal scores count once, masked ones not at all)',
        head: columns('precision, tokens, chunk, TTFT s, tokens/s, TFLOP/s, of the best product'),
        rows: cells.map((cell) => [
          cell.element,
          String(cell.tokens),
          String(cell.chunk),
          Math.min(...cell.seconds).toFixed(2),
          (cell.tokens / Math.min(...cell.seconds)).toFixed(0),
          rateOf(cell).toFixed(1),
          percent(rateOf(cell) / best(cell.element)),
        ]),
      },
    ],
    data: { what, ceilings, cells },
  }
}
