import { GLIBC } from '../../../coordinator/cli/processes.ts'
import { wholeNumber } from '../../../shared/cli/options.ts'
import { WEIGHTS, type Weights } from '../../../shared/engine-name.ts'
import { bundledModel, fixture } from '../../support/paths.ts'
import { createTinyModel } from '../../support/tiny-model.ts'
import { storedWeightBytes } from '../harness/budget.ts'
import { coresFrom } from '../harness/cores.ts'
import { listed } from '../harness/lists.ts'
import { PinnedChild } from '../harness/pinned-child.ts'
import { compareQuality } from '../harness/quality.ts'
import { qualityTable } from '../harness/quality-report.ts'
import { columns, mebibytes, type ReportPart } from '../harness/report.ts'
import { ENGINE_CHILD, type OurOpened, type OurPrefill } from '../harness/rivals.ts'
import { presetFolder } from '../models/cache.ts'
import { PRESET_NAMES, PRESETS, type PresetName } from '../models/presets.ts'
import { promptIds } from '../models/prompt-ids.ts'
import { defineSuite } from '../suite.ts'

/** What each way to keep weights costs in quality, and what it saves in memory. */
export const qualitySuite = defineSuite({
  name: 'quality',
  describe: 'Answers, divergence, perplexity and memory of each kind of weights',
  options: {
    weights: {
      type: 'array',
      coerce: listed as (values: readonly unknown[]) => Weights[],
      choices: WEIGHTS,
      default: [...WEIGHTS],
      describe: 'How weights are kept',
    },
    file: { type: 'string', default: fixture('prompts/prompts.jsonl'), describe: 'One prompt a line' },
    prompts: { type: 'number', default: 16, describe: 'So many of them, the shortest first' },
    scored: { type: 'number', default: 4096, describe: 'Tokens scored for perplexity; 0 for none' },
    preset: { choices: PRESET_NAMES, default: 'smol135' as PresetName, describe: 'Shape whose memory is looked at' },
    tokens: { type: 'number', default: 2048, describe: 'Length of the prompt after which it is' },
  },
  async run({ weights: kinds, file, preset, ...options }, { signal, note }) {
    const most = wholeNumber('prompts', options.prompts, 1, 1_000_000)
    const scored = wholeNumber('scored', options.scored, 0, 1_000_000)
    const tokens = wholeNumber('tokens', options.tokens, 2, PRESETS[preset].contextLength)
    const memory: EngineMemory[] = []
    for (const weights of kinds)
      for (const decodes of [false, true]) {
        memory.push(await memoryWith({ preset, weights, decodes, tokens }, signal))
        note(`${weights}${decodes ? ' to decode with' : ''}: ${mebibytes(memory.at(-1)!.loadedBytes)} MiB`)
      }
    const quality = await compareQuality({ folder: bundledModel, prompts: file, kinds, most, scored }, signal)
    return { parts: [qualityTable(quality), memoryTable(preset, tokens, memory)], data: { quality, memory } }
  },
})

interface EngineMemory {
  readonly weights: Weights
  readonly decodes: boolean
  readonly storedBytes: number
  /** Of the process with a model of a few kilobytes: Node, ONNX Runtime, our code. */
  readonly runtimeBytes: number
  readonly loadedBytes: number
  /** During a prompt, with its KV of one layer and what it computes with. */
  readonly peakBytes: number
}

async function memoryWith(
  { preset, tokens, ...options }: { preset: PresetName; weights: Weights; decodes: boolean; tokens: number },
  signal: AbortSignal,
): Promise<EngineMemory> {
  const { decodes, weights } = options
  const tiny = await createTinyModel({ dtype: 'BF16' })
  const child = await PinnedChild.start(ENGINE_CHILD, coresFrom(0, 1), signal, GLIBC)
  try {
    const open = (folder: string) => child.ask<OurOpened>('open', { folder, threads: 1, head: decodes, ...options })
    await open(tiny.folder)
    const runtime = await child.ask<object>('settle', {})
    await open(await presetFolder(preset))
    const loaded = await child.ask<object>('settle', {})
    const run = await child.ask<OurPrefill>('prefill', {
      tokens: promptIds(PRESETS[preset].vocab, tokens),
      head: decodes,
    })
    return {
      weights,
      decodes,
      storedBytes: storedWeightBytes(PRESETS[preset], weights, decodes),
      runtimeBytes: runtime.residentBytes,
      loadedBytes: loaded.residentBytes,
      peakBytes: run.peakBytes,
    }
  } finally {
    await child.stop()
    await tiny.remove()
  }
}

const memoryTable = (preset: PresetName, tokens: number, memory: readonly EngineMemory[]): ReportPart => ({
  title:
    `Memory of one process in MiB, ${preset}. "runtime": with a model of a few kB; "times": what the model adds to it, ` +
    `over its stored weights; "prompt": the most while ${tokens} tokens are computed`,
  head: columns('weights, role, stored, runtime, loaded, added, times, prompt, times'),
  rows: memory.map(({ weights, decodes, storedBytes, runtimeBytes, loadedBytes, peakBytes }) => {
    const [added, most] = [loadedBytes - runtimeBytes, peakBytes - runtimeBytes]
    const times = (bytes: number): string => (bytes / storedBytes).toFixed(2)
    const numbers = [storedBytes, runtimeBytes, loadedBytes, added].map(mebibytes)
    const role = decodes ? 'decode node' : 'worker'
    return [weights, role, ...numbers, times(added), mebibytes(peakBytes), times(most)]
  }),
})
