import { wholeNumber } from '../../../shared/cli/options.ts'
import { WEIGHTS } from '../../../shared/engine-name.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { STRATEGIES } from '../../../shared/plan.ts'
import { bundledModel } from '../../support/paths.ts'
import { logbookPrompt, type Prompt, tokensPrompt } from '../harness/ask.ts'
import { type BenchCluster, placementText } from '../harness/cluster.ts'
import { coresAllowed, type HostsCluster, withHosts } from '../harness/hosts.ts'
import { underLoad, withEach } from '../harness/load.ts'
import { accuracyOf, accuracyText } from '../harness/predictions.ts'
import { untilQuiet } from '../harness/quiet.ts'
import type { Report, ReportPart } from '../harness/report.ts'
import {
  accountTable,
  foreignCores,
  type Group,
  quietLine,
  summary,
  ttftTable,
  workersTable,
} from '../harness/split-tables.ts'
import { rotated } from '../harness/statistics.ts'
import {
  type Candidate,
  evenSplit,
  foretold,
  ofLabel,
  SOLO,
  splitOver,
  type Trial,
  tryOnce,
} from '../harness/trials.ts'
import { modelFolder } from '../models/cache.ts'
import { defineSuite } from '../suite.ts'

/** What splitting a prompt over workers of one core each is worth, against one such worker. */
export const splitSuite = defineSuite({
  name: 'split',
  describe: 'Time to first token: solo on one core against chain and ring over several',
  options: {
    model: { type: 'string', default: bundledModel, describe: 'Hugging Face model folder, or a shape: smol135, wide' },
    weights: { choices: WEIGHTS, default: 'f32', describe: 'How weights are kept and computed with' },
    workers: { type: 'array', number: true, default: [2], describe: 'Workers of chain and ring, one core each' },
    rounds: { type: 'number', default: 5, describe: 'Runs of each plan, in turn' },
    warmup: { type: 'number', default: 1, describe: 'Rounds before that, not counted' },
    patience: { type: 'number', default: 0, describe: 'Seconds to wait before each run for others to be quiet' },
    tokens: { type: 'array', number: true, describe: 'Lengths of the prompt [default: the log-book, about 12,000]' },
    strategies: { type: 'array', choices: STRATEGIES, default: STRATEGIES, describe: 'What to compare with solo' },
    even: { type: 'boolean', default: false, describe: 'Also the same number of tokens for each' },
    beside: {
      type: 'boolean',
      default: false,
      describe: 'Also one worker while each other core computes the same alone: the base of parallel efficiency',
    },
  },
  async run(options, { signal, note }) {
    const { weights, patience, tokens, strategies, even } = options
    const model = await modelFolder(options.model)
    const rounds = wholeNumber('rounds', options.rounds, 1, 1000)
    const warmup = wholeNumber('warmup', options.warmup, 0, 1000)
    const sizes = options.workers.map((count) => wholeNumber('workers', Number(count), 1, 64)).filter((n) => n > 1)
    const most = Math.max(1, ...sizes)
    const cores = coresAllowed()
    const at = (i: number) => ({ core: cores[i % cores.length]!, share: 1 })
    const main = { model, weights, workers: Array.from({ length: most }, (_, i) => at(i)) }
    const splits = sizes.flatMap((size) =>
      (['chain', 'ring'] as const)
        .filter((strategy) => strategies.includes(strategy))
        .flatMap((strategy) => [splitOver(strategy, size), ...(even ? [evenSplit(strategy, size)] : [])]),
    )
    // What is beside the measured one keeps to its core, so that each core has the same to do.
    const beside = options.beside
      ? Array.from({ length: most }, (_, i) => ({ model, weights, workers: [at(i)], helperCore: at(i).core }))
      : []
    return withHosts(main, signal, (cluster) =>
      withEach(beside, cluster.signal, async (singles) => {
        const all = { url: cluster.url, pids: cluster.pids, signal: singles.at(-1)?.signal ?? cluster.signal }
        const prompts =
          tokens === undefined && model === bundledModel
            ? [await logbookPrompt()]
            : await Promise.all((tokens ?? [8192]).map((count) => tokensPrompt(all.url, Number(count), all.signal)))
        const ways = [
          way(all, SOLO),
          ...(beside.length === 0 ? [] : sizes.map((size) => besideWay(singles, all.signal, size))),
          ...splits.map((candidate) => way(all, candidate)),
        ]
        const measured: { prompt: Prompt; trials: Trial[] }[] = []
        let aftermath = 0
        for (const prompt of prompts) {
          const trials: Trial[] = []
          measured.push({ prompt, trials })
          for (let round = -warmup; round < rounds; round++)
            for (const { measure, learns } of rotated(ways, round + warmup)) {
              if (round < 0 && !learns) continue
              await untilQuiet(Math.max(patience, aftermath), all.signal)
              const trial = await measure(prompt)
              aftermath = learns ? 0 : AFTERMATH_SECONDS
              if (round >= 0) trials.push(trial)
              note(`${round < 0 ? 'warm-up' : `round ${round + 1} of ${rounds}`}: ${trialText(trial)}`)
            }
        }
        return report(all, measured, ways)
      }),
    )
  },
})

/** What keeps the other cores busy tidies up when it ends, beside whatever is measured next: so long at most. */
const AFTERMATH_SECONDS = 20

/** A candidate, and what it takes to measure it once. */
interface Way {
  readonly label: string
  /** Whose time, divided by the workers, is the ideal of a split over as many. */
  readonly besideOf?: number
  /** Its prediction depends on what the cluster has learnt from runs before, so that it is worth warming up. */
  readonly learns: boolean
  readonly measure: (prompt: Prompt) => Promise<Trial>
}

const way = (cluster: BenchCluster, candidate: Candidate): Way => ({
  label: candidate.label,
  learns: true,
  measure: async (prompt) => checked(prompt, await tryOnce(cluster, prompt, candidate)),
})

/** One worker with a cluster of its own, while `size - 1` others of the same kind do the same. */
function besideWay(singles: readonly HostsCluster[], signal: AbortSignal, size: number): Way {
  const label = `solo beside ${size - 1}`
  const [own, ...others] = singles.slice(0, size)
  const measure = (prompt: Prompt): Promise<Trial> => tryOnce({ ...own!, signal }, prompt, { ...SOLO, label })
  return {
    label,
    besideOf: size,
    learns: false,
    measure: (prompt) => underLoad(others, prompt, signal, async () => checked(prompt, await measure(prompt))),
  }
}

/** A fast wrong answer is no result. */
function checked(prompt: Prompt, trial: Trial): Trial {
  if (prompt.answer === undefined || trial.asked.text === prompt.answer) return trial
  throw new HeadraceError('internal', `${trial.label} answered "${trial.asked.text}", not "${prompt.answer}"`)
}

function report(
  cluster: BenchCluster,
  measured: readonly { prompt: Prompt; trials: readonly Trial[] }[],
  ways: readonly Way[],
): Report {
  const found = measured.map(({ prompt, trials }) => reportOf(prompt, trials, ways))
  // What runs beside others is disturbed on purpose, and nobody has told its planner.
  const foretellable = new Set(ways.filter(({ besideOf }) => besideOf === undefined).map(({ label }) => label))
  const told = measured.flatMap(({ trials }) => trials.filter(({ label }) => foretellable.has(label)).map(foretold))
  return {
    parts: [{ line: placementText(cluster) }, ...found.flatMap(({ parts }) => parts), { line: accuracyText(told) }],
    data: { placement: placementText(cluster), accuracy: accuracyOf(told), prompts: found.map(({ data }) => data) },
  }
}

function reportOf(prompt: Prompt, trials: readonly Trial[], ways: readonly Way[]): Report {
  const group = (label: string): Group => ofLabel(trials, label)
  const solo = group(SOLO.label)
  const groups = ways.map(({ label }) => group(label))
  const found = groups.map((runs, i) => {
    const workers = runs[0]!.asked.prefill.workers.length
    const beside = ways.find(({ besideOf }) => besideOf === workers && ways[i]!.besideOf === undefined)
    return summary(runs, solo, beside && group(beside.label))
  })
  // A run beside others is disturbed on purpose.
  const alone = (_: unknown, i: number): boolean => ways[i]!.besideOf === undefined
  const texts = new Set(trials.map(({ asked }) => asked.text))
  const { promptTokens } = trials[0]!.asked
  const parts: ReportPart[] = [
    { line: `${promptTokens} tokens: ${prompt.about}. ${solo.length} rounds, plans in turn.` },
    ttftTable(found),
    quietLine(found.filter(alone), groups.filter(alone)),
    accountTable(groups),
    workersTable(groups),
    {
      line: texts.size === 1 ? `All answers are "${[...texts][0]}".` : `The answers differ: ${[...texts].join(' | ')}`,
    },
  ]
  return { parts, data: { prompt: prompt.about, promptTokens, found, runs: trials } }
}

function trialText(trial: Trial): string {
  const { ttftSeconds, prefill } = trial.asked
  const shares = prefill.workers.map(({ id, tokens, compute_seconds, wait_seconds }) => {
    const [compute, wait] = [compute_seconds ?? 0, wait_seconds ?? 0]
    return `${id} ${tokens} tokens ${compute.toFixed(2)} s + ${wait.toFixed(2)} s wait`
  })
  const others = foreignCores(trial).toFixed(2)
  return `${trial.label.padEnd(12)} ${ttftSeconds.toFixed(2)} s (${shares.join(', ')}; others used ${others} cores)`
}
