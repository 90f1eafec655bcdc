import { getJson } from '../../../coordinator/cli/client.ts'
import type { ChromeTrace } from '../../../coordinator/trace/chrome.ts'
import { wholeNumber } from '../../../shared/cli/options.ts'
import { WEIGHTS } from '../../../shared/engine-name.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import { readModelShape } from '../../../shared/model-folder.ts'
import type { Strategy } from '../../../shared/plan.ts'
import { bundledModel } from '../../support/paths.ts'
import { ask, logbookPrompt, type Prompt, tokensPrompt } from '../harness/ask.ts'
import { CREDIT_LAYERS, heldKvBytes, runAhead, storedWeightBytes } from '../harness/budget.ts'
import { type BenchCluster, placementText, withCluster } from '../harness/cluster.ts'
import { forgetPeak, type Memory, memoryOf } from '../harness/proc.ts'
import { mebibytes, type Report, type ReportPart } from '../harness/report.ts'
import { LEAST_RUNS, settledGrowth } from '../harness/statistics.ts'
import { modelFolder } from '../models/cache.ts'
import { defineSuite } from '../suite.ts'

/** Whether memory comes back to its level after each run, in every process. */
export const memorySuite = defineSuite({
  name: 'memory',
  describe: 'Resident memory of every process over many runs: chain, then ring',
  options: {
    model: { type: 'string', default: bundledModel, describe: 'Hugging Face model folder, or a shape: smol135, wide' },
    weights: { choices: WEIGHTS, default: 'f32', describe: 'How weights are kept and computed with' },
    workers: { type: 'number', default: 2, describe: 'Workers, one core each' },
    runs: { type: 'number', default: 20, describe: 'Runs of each strategy, 8 or more' },
    tokens: { type: 'number', describe: 'Length of the prompt [default: the log-book, about 12,000]' },
    strategies: {
      type: 'array',
      choices: ['solo', 'chain', 'ring'],
      default: ['chain', 'ring'],
      describe: 'One after the other, in one cluster',
    },
    varied: { type: 'boolean', default: false, describe: 'Every prompt 37 tokens shorter than the one before' },
    'idle-seconds': {
      type: 'number',
      default: 2,
      describe: 'Pause after each run, and then the look that counts: workers give memory back when idle',
    },
    'allowed-mib': { type: 'number', default: 16, describe: 'Growth of a process that is not called growth' },
  },
  async run(options, { signal, note }) {
    const { weights, tokens, strategies, varied, 'idle-seconds': idle, 'allowed-mib': allowed } = options
    const model = await modelFolder(options.model)
    const shape = await readModelShape(model)
    const workers = wholeNumber('workers', options.workers, 1, 64)
    const runs = wholeNumber('runs', options.runs, LEAST_RUNS, 10_000)
    return withCluster({ workers, model, weights }, signal, async (cluster) => {
      const promptOf = async (run: number): Promise<Prompt> => {
        if (tokens === undefined && !varied && model === bundledModel) return await logbookPrompt()
        const length = (tokens ?? VARIED_TOKENS) - (varied ? run * SHORTER_TOKENS : 0)
        return await tokensPrompt(cluster.url, length, cluster.signal)
      }
      const before = look(cluster)
      note(`before: ${lookText(before)}`)
      const phases: Phase[] = []
      for (const strategy of strategies as Strategy[]) {
        const looks: RunLooks[] = []
        for (let run = 0; run < runs; run++) {
          for (const pid of cluster.pids.values()) forgetPeak(pid)
          const how = strategy === 'solo' ? { strategy } : { strategy, workers }
          const asked = await ask(cluster.url, await promptOf(run), how, cluster.signal)
          const after = look(cluster)
          const trace = await getJson<ChromeTrace>(`${cluster.url}/v1/runs/${asked.prefill.run}/trace`, cluster.signal)
          await realClock.sleep(idle, cluster.signal)
          const kv = heldKvBytes(shape, asked.promptTokens, asked.prefill)
          const { decode } = asked.prefill
          looks.push({ after, settled: look(cluster), kv, ahead: runAhead(trace), decode })
          note(
            `${strategy} ${run + 1} of ${runs}, ${asked.ttftSeconds.toFixed(2)} s: ${lookText(looks.at(-1)!.settled)}`,
          )
        }
        phases.push({ strategy, looks })
      }
      return report(cluster, {
        about: (await promptOf(0)).about,
        before,
        phases,
        allowed: allowed * 2 ** 20,
        weightBytes: (decodes) => storedWeightBytes(shape, weights, decodes),
      })
    })
  },
})

const VARIED_TOKENS = 12_000
/** Prime, so that no last chunk or block has a size that was there before. */
const SHORTER_TOKENS = 37

/** Every process by name. */
type Look = Readonly<Record<string, Memory>>

interface RunLooks {
  readonly after: Look
  /** After the pause. */
  readonly settled: Look
  /** By worker: KV that the run makes it hold, bytes, and layers of others' KV that had come before they were needed. */
  readonly kv: ReadonlyMap<string, number>
  readonly ahead: ReadonlyMap<string, number>
  /** Who decoded. */
  readonly decode: string
}

interface Phase {
  readonly strategy: Strategy
  readonly looks: readonly RunLooks[]
}

const look = ({ pids }: BenchCluster): Look => Object.fromEntries([...pids].map(([name, pid]) => [name, memoryOf(pid)]))

interface Found {
  readonly about: string
  readonly before: Look
  readonly phases: readonly Phase[]
  readonly allowed: number
  readonly weightBytes: (decodes: boolean) => number
}

function report(cluster: BenchCluster, { about, before, phases, allowed, weightBytes }: Found): Report {
  const names = [...cluster.pids.keys()]
  const found = phases.flatMap((phase) => names.map((name) => growthOf(phase, name)))
  const grown = found.filter(({ growth }) => growth > allowed)
  const parts: ReportPart[] = [
    { line: placementText(cluster) },
    { line: `The prompt: ${about}.` },
    everyRun(names, before, phases),
    {
      title:
        'Settled memory in MiB: the median of the last 3 runs over that of runs 3 to 5; peak: the most during any run',
      head: ['strategy', 'process', 'before', 'runs 3-5', 'last 3', 'growth', 'peak'],
      rows: found.map(({ strategy, name, from, to, growth, peak }) => [
        strategy,
        name,
        ...[before[name]!.residentBytes, from, to, growth, peak].map(mebibytes),
      ]),
    },
    neededTable(phases, weightBytes),
    {
      line:
        grown.length === 0
          ? `Verdict: no process grew by more than ${mebibytes(allowed)} MiB.`
          : `Verdict: GROWTH in ${grown.map(({ name, strategy, growth }) => `${name} (${strategy}, ${mebibytes(growth)} MiB)`).join(', ')}.`,
    },
  ]
  return { parts, data: { prompt: about, placement: placementText(cluster), before, phases, found } }
}

function growthOf({ strategy, looks }: Phase, name: string) {
  const settled = looks.map((run) => run.settled[name]!.residentBytes)
  const peak = Math.max(...looks.map((run) => run.settled[name]!.peakBytes))
  return { strategy, name, ...settledGrowth(settled), peak }
}

/** Of every run the one in which a process took most beyond what it needs. */
function neededTable(phases: readonly Phase[], weightBytesOf: Found['weightBytes']): ReportPart {
  const rows = phases.flatMap(({ strategy, looks }) => {
    const names = [...new Set(looks.flatMap(({ kv }) => [...kv.keys()]))]
    return names.map((name) => {
      const weightBytes = weightBytesOf(looks.some(({ decode }) => decode === name))
      const runs = looks.map(({ after, kv, ahead }) => {
        const kvBytes = kv.get(name) ?? 0
        const peak = after[name]!.peakBytes
        return { peak, kvBytes, beyond: peak - weightBytes - kvBytes, ahead: ahead.get(name) ?? 0 }
      })
      const worst = runs.reduce((most, run) => (run.beyond > most.beyond ? run : most))
      const layers = Math.max(...runs.map(({ ahead }) => ahead))
      return [strategy, name, ...[worst.peak, weightBytes, worst.kvBytes, worst.beyond].map(mebibytes), String(layers)]
    })
  })
  return {
    title: `Peak memory in MiB against stored weights and KV; layers of others' KV that had come unread, of ${CREDIT_LAYERS} granted`,
    head: ['strategy', 'process', 'peak', 'weights', 'KV', 'beyond', 'layers ahead'],
    rows,
  }
}

const everyRun = (names: readonly string[], before: Look, phases: readonly Phase[]): ReportPart => ({
  title: 'Resident memory in MiB: right after each run, then settled, and in brackets the most since the run began',
  head: ['run', ...names],
  rows: [
    ['before', ...names.map((name) => cell(before[name]!))],
    ...phases.flatMap(({ strategy, looks }) =>
      looks.map(({ after, settled }, i) => [
        `${strategy} ${i + 1}`,
        ...names.map((name) => `${mebibytes(after[name]!.residentBytes)}, ${cell(settled[name]!)}`),
      ]),
    ),
  ],
})

const cell = ({ residentBytes, peakBytes }: Memory): string => `${mebibytes(residentBytes)} (${mebibytes(peakBytes)})`

const lookText = (at: Look): string =>
  Object.entries(at)
    .map(([name, memory]) => `${name} ${cell(memory)}`)
    .join(', ')
