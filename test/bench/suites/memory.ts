import { wholeNumber } from '../../../shared/cli/options.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import type { Strategy } from '../../../shared/plan.ts'
import { ask, logbookPrompt, type Prompt, tokensPrompt } from '../harness/ask.ts'
import { type BenchCluster, placementText, withCluster } from '../harness/cluster.ts'
import { forgetPeak, type Memory, memoryOf } from '../harness/proc.ts'
import { mebibytes, type Report, type ReportPart } from '../harness/report.ts'
import { LEAST_RUNS, settledGrowth } from '../harness/statistics.ts'
import { defineSuite } from '../suite.ts'

/** Whether memory comes back to its level after each run, in every process. */
export const memorySuite = defineSuite({
  name: 'memory',
  describe: 'Resident memory of every process over many runs: chain, then ring',
  options: {
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
    const { tokens, strategies, varied, 'idle-seconds': idle, 'allowed-mib': allowed } = options
    const workers = wholeNumber('workers', options.workers, 1, 64)
    const runs = wholeNumber('runs', options.runs, LEAST_RUNS, 10_000)
    return withCluster({ workers }, signal, async (cluster) => {
      const promptOf = async (run: number): Promise<Prompt> => {
        if (tokens === undefined && !varied) return await logbookPrompt()
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
          const { ttftSeconds } = await ask(cluster.url, await promptOf(run), how, cluster.signal)
          const after = look(cluster)
          await realClock.sleep(idle, cluster.signal)
          looks.push({ after, settled: look(cluster) })
          note(`${strategy} ${run + 1} of ${runs}, ${ttftSeconds.toFixed(2)} s: ${lookText(looks.at(-1)!.settled)}`)
        }
        phases.push({ strategy, looks })
      }
      return report(cluster, (await promptOf(0)).about, before, phases, allowed * 2 ** 20)
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
}

interface Phase {
  readonly strategy: Strategy
  readonly looks: readonly RunLooks[]
}

const look = ({ pids }: BenchCluster): Look => Object.fromEntries([...pids].map(([name, pid]) => [name, memoryOf(pid)]))

function report(cluster: BenchCluster, about: string, before: Look, phases: readonly Phase[], allowed: number): Report {
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
