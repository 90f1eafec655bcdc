import { wholeNumber } from '../../../shared/cli/options.ts'
import { WEIGHTS, type Weights } from '../../../shared/engine-name.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import { readModelShape } from '../../../shared/model-folder.ts'
import { bundledModel } from '../../support/paths.ts'
import { ask, tokensPrompt } from '../harness/ask.ts'
import { heldKvBytes, storedWeightBytes } from '../harness/budget.ts'
import { type BenchCluster, withCluster } from '../harness/cluster.ts'
import { listed } from '../harness/lists.ts'
import { forgetPeak, memoryOf } from '../harness/proc.ts'
import { columns, mebibytes, type ReportPart } from '../harness/report.ts'
import { presetFolder } from '../models/cache.ts'
import { PRESET_NAMES, PRESETS, type PresetName } from '../models/presets.ts'
import { defineSuite, type SuiteContext } from '../suite.ts'

/** What a model adds to the processes of a cluster, against the size of its stored weights. */
export const residentSuite = defineSuite({
  name: 'resident',
  describe: 'Resident memory of a prefill worker and a decode node against their stored weights',
  options: {
    preset: { choices: PRESET_NAMES, default: 'smol135' as PresetName, describe: 'Shape of the model, random weights' },
    weights: {
      type: 'array',
      coerce: listed as (values: readonly unknown[]) => Weights[],
      choices: WEIGHTS,
      default: [...WEIGHTS],
      describe: 'How weights are kept',
    },
    tokens: { type: 'number', default: 2048, describe: 'Length of each prompt, planned as the coordinator likes' },
    prompts: { type: 'number', default: 2, describe: 'So many prompts before the second look' },
    'idle-seconds': {
      type: 'number',
      default: 2,
      describe: 'Pause before each look: workers give memory back when idle',
    },
  },
  async run({ preset, weights: kinds, 'idle-seconds': idle, ...options }, context) {
    const tokens = wholeNumber('tokens', options.tokens, 2, PRESETS[preset].contextLength)
    const prompts = wholeNumber('prompts', options.prompts, 1, 1000)
    const looksWith = (model: string, weights: Weights) => looksOf({ model, weights, tokens, prompts, idle }, context)
    const found: Added[] = []
    for (const weights of kinds) {
      const without = await looksWith(bundledModel, weights)
      const looks = await looksWith(await presetFolder(preset), weights)
      for (const [name, look] of looks) {
        const decodes = look.role === 'decode'
        // of bfloat16 weights a decode node of a local cluster keeps float32 ones
        const kept = decodes && weights === 'bf16' ? 'f32' : weights
        const storedBytes = storedWeightBytes(PRESETS[preset], kept, decodes)
        found.push({ weights, name, storedBytes, look, without: without.get(name)! })
      }
    }
    return { parts: [table(preset, tokens, found)], data: { preset, tokens, prompts, found } }
  },
})

/** A worker, with one model. All in bytes. */
interface Looks {
  readonly role: 'prefill' | 'decode'
  readonly loaded: number
  /** After the prompts, idle again. */
  readonly settled: number
  /** The most during the last prompt, and the KV it had to hold then. */
  readonly peak: number
  readonly kv: number
  /** Tokens of the last prompt that it computed. */
  readonly tokens: number
}

interface Added {
  readonly weights: Weights
  readonly name: string
  readonly storedBytes: number
  readonly look: Looks
  /** The same with the bundled model, which weighs next to nothing: the program and its scratch. */
  readonly without: Looks
}

async function looksOf(
  of: { model: string; weights: Weights; tokens: number; prompts: number; idle: number },
  { signal, note }: SuiteContext,
): Promise<ReadonlyMap<string, Looks>> {
  const shape = await readModelShape(of.model)
  return withCluster({ workers: 1, model: of.model, weights: of.weights }, signal, async (cluster) => {
    const workers = [...cluster.pids].filter(([name]) => name !== 'coordinator')
    await realClock.sleep(of.idle, cluster.signal)
    const loaded = new Map(workers.map(([name, pid]) => [name, memoryOf(pid).residentBytes]))
    let asked = await askOnce(cluster, of.tokens)
    for (let i = 1; i < of.prompts; i++) asked = await askOnce(cluster, of.tokens)
    const peaks = new Map(workers.map(([name, pid]) => [name, memoryOf(pid).peakBytes]))
    await realClock.sleep(of.idle, cluster.signal)
    const kv = heldKvBytes(shape, asked.promptTokens, asked.prefill)
    const looks = workers.map(([name, pid]): [string, Looks] => [
      name,
      {
        role: name === asked.prefill.decode ? 'decode' : 'prefill',
        loaded: loaded.get(name)!,
        settled: memoryOf(pid).residentBytes,
        peak: peaks.get(name)!,
        kv: kv.get(name) ?? 0,
        tokens: asked.prefill.workers.find(({ id }) => id === name)?.tokens ?? 0,
      },
    ])
    for (const [name, { settled }] of looks) note(`${of.weights}, ${name} with ${of.model}: ${mebibytes(settled)} MiB`)
    return new Map(looks)
  })
}

async function askOnce(cluster: BenchCluster, tokens: number) {
  for (const pid of cluster.pids.values()) forgetPeak(pid)
  return ask(cluster.url, await tokensPrompt(cluster.url, tokens, cluster.signal), {}, cluster.signal)
}

const table = (preset: PresetName, tokens: number, found: readonly Added[]): ReportPart => ({
  title:
    `Resident memory in MiB with ${preset}, in brackets with the bundled model; "times": the difference over the stored ` +
    `weights. "after": idle again after prompts of ${tokens} tokens; "peak": during the last of them, KV of both taken off`,
  head: columns('weights, process, computed, stored, loaded, times, after, times, peak, times'),
  rows: found.map(({ weights, name, storedBytes, look, without }) => {
    const pair = (of: number, base: number): string[] => [
      `${mebibytes(of)} (${mebibytes(base)})`,
      ((of - base) / storedBytes).toFixed(2),
    ]
    return [
      weights,
      name,
      String(look.tokens),
      mebibytes(storedBytes),
      ...pair(look.loaded, without.loaded),
      ...pair(look.settled, without.settled),
      ...pair(look.peak - look.kv, without.peak - without.kv),
    ]
  }),
})
