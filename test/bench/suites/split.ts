import { spansText } from '../../../coordinator/cli/table.ts'
import { wholeNumber } from '../../../shared/cli/options.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { STRATEGIES, type Strategy } from '../../../shared/plan.ts'
import { type Account, accountOf } from '../harness/account.ts'
import { type Asked, ask, logbookPrompt, type Prompt, tokensPrompt } from '../harness/ask.ts'
import { type BenchCluster, type Load, placementText, underWatch, withCluster } from '../harness/cluster.ts'
import { QUIET_CORES, untilQuiet } from '../harness/quiet.ts'
import { columns, percent, type Report, type ReportPart, spreadText } from '../harness/report.ts'
import { median, rotated, speedUps, spreadOf, sum } from '../harness/statistics.ts'
import { defineSuite } from '../suite.ts'

/** What splitting a prompt over workers of one core each is worth, against one such worker. */
export const splitSuite = defineSuite({
  name: 'split',
  describe: 'Time to first token: solo on one core against chain and ring over several',
  options: {
    workers: { type: 'number', default: 2, describe: 'Workers of the chain and of the ring, one core each' },
    rounds: { type: 'number', default: 5, describe: 'Runs of each strategy, in turn' },
    warmup: { type: 'number', default: 1, describe: 'Rounds before that, not counted' },
    patience: { type: 'number', default: 0, describe: 'Seconds to wait before each run for others to be quiet' },
    tokens: { type: 'number', describe: 'Length of the prompt [default: the log-book, about 12,000]' },
    strategies: { type: 'array', choices: STRATEGIES, default: STRATEGIES, describe: 'What to compare with solo' },
  },
  async run({ workers, rounds, warmup, patience, tokens, strategies }, { signal, note }) {
    wholeNumber('rounds', rounds, 1, 1000)
    wholeNumber('warmup', warmup, 0, 1000)
    return withCluster({ workers: wholeNumber('workers', workers, 1, 64) }, signal, async (cluster) => {
      const prompt =
        tokens === undefined ? await logbookPrompt() : await tokensPrompt(cluster.url, tokens, cluster.signal)
      const candidates = STRATEGIES.filter((strategy) => strategy === 'solo' || strategies.includes(strategy))
      const runs: Run[] = []
      for (let round = -warmup; round < rounds; round++)
        for (const strategy of rotated(candidates, round + warmup)) {
          await untilQuiet(patience, cluster.signal)
          const run = await measure(cluster, prompt, strategy, workers)
          if (round >= 0) runs.push(run)
          note(`${round < 0 ? 'warm-up' : `round ${round + 1} of ${rounds}`}: ${runText(run)}`)
        }
      return report(cluster, prompt, candidates, runs)
    })
  },
})

interface Run {
  readonly strategy: Strategy
  readonly asked: Asked
  readonly load: Load
}

async function measure(cluster: BenchCluster, prompt: Prompt, strategy: Strategy, workers: number): Promise<Run> {
  const how = strategy === 'solo' ? { strategy } : { strategy, workers }
  const { result: asked, load } = await underWatch(cluster, () => ask(cluster.url, prompt, how, cluster.signal))
  // A fast wrong answer is no result.
  if (prompt.answer !== undefined && asked.text !== prompt.answer)
    throw new HeadraceError('internal', `${strategy} answered "${asked.text}", not "${prompt.answer}"`)
  return { strategy, asked, load }
}

function report(cluster: BenchCluster, prompt: Prompt, candidates: readonly Strategy[], runs: readonly Run[]): Report {
  const of = (strategy: Strategy): Run[] => runs.filter((run) => run.strategy === strategy)
  const ttfts = (strategy: Strategy): number[] => of(strategy).map(({ asked }) => asked.ttftSeconds)
  const found = candidates.map((strategy) => summary(strategy, of(strategy), speedUps(ttfts('solo'), ttfts(strategy))))
  const texts = new Set(runs.map(({ asked }) => asked.text))
  const { promptTokens } = runs[0]!.asked
  const parts: ReportPart[] = [
    { line: placementText(cluster) },
    { line: `${promptTokens} tokens: ${prompt.about}. ${found[0]!.ttft.count} rounds, strategies in turn.` },
    ttftTable(found),
    quietLine(
      found,
      candidates.map((strategy) => of(strategy)),
    ),
    accountTable(candidates.map((strategy) => of(strategy))),
    workersTable(candidates.map((strategy) => of(strategy))),
    {
      line: texts.size === 1 ? `All answers are "${[...texts][0]}".` : `The answers differ: ${[...texts].join(' | ')}`,
    },
  ]
  return { parts, data: { prompt: prompt.about, promptTokens, placement: placementText(cluster), found, runs } }
}

/** Medians over the rounds of one strategy. */
function summary(strategy: Strategy, runs: readonly Run[], faster: readonly number[]) {
  const workers = runs[0]!.asked.prefill.workers.length
  const reported = runs.map(({ asked }) => asked.prefill.ttft_seconds)
  const predicted = runs.map(({ asked }) => asked.prefill.predicted_ttft_seconds)
  return {
    strategy,
    workers,
    ttft: spreadOf(runs.map(({ asked }) => asked.ttftSeconds)),
    reported: spreadOf(reported),
    predicted: spreadOf(predicted),
    /** Above 1: it took longer than predicted. */
    measuredByPredicted: spreadOf(reported.map((seconds, i) => seconds / predicted[i]!)),
    speedUp: spreadOf(faster),
    efficiency: median(faster) / workers,
    waitShare: spreadOf(runs.map(waitShare)),
    otherCores: spreadOf(runs.map(foreignCores)),
  }
}

const foreignCores = ({ load }: Run): number => load.otherCores + load.stolenCores

/** Noise only ever adds time. So what nobody disturbed, or else the least of all, is nearest to a machine of one's own. */
function quietLine(found: readonly ReturnType<typeof summary>[], groups: readonly (readonly Run[])[]): ReportPart {
  const seconds = (runs: readonly Run[]): number[] => runs.map(({ asked }) => asked.ttftSeconds)
  const quiet = groups.map((runs) => seconds(runs.filter((run) => foreignCores(run) < QUIET_CORES)))
  const least = (i: number): number => found[0]!.ttft.min / found[i]!.ttft.min
  const texts = found.map(({ strategy }, i) => {
    const own = quiet[i]!
    const both = `${(median(quiet[0]!) / median(own)).toFixed(2)}x by the medians of these`
    const undisturbed = `${own.length} undisturbed, median ${median(own).toFixed(2)} s`
    return i === 0
      ? `${strategy} ${undisturbed}`
      : `${strategy} ${undisturbed}: ${both}, ${least(i).toFixed(2)}x by the least`
  })
  return { line: `Runs during which others used less than ${QUIET_CORES} cores: ${texts.join('; ')}.` }
}

/** Exposed communication: of the time that workers spent on the run, how much they stood still for want of a block. */
function waitShare({ asked }: Run): number {
  const waits = asked.prefill.workers.map(({ wait_seconds }) => wait_seconds ?? 0)
  const computes = asked.prefill.workers.map(({ compute_seconds }) => compute_seconds ?? 0)
  return sum(waits) / Math.max(sum(waits) + sum(computes), 1e-9)
}

const ttftTable = (found: readonly ReturnType<typeof summary>[]): ReportPart => ({
  title: 'Time to first token in seconds: median (least-most)',
  head: columns(
    'strategy, workers, at the client, reported, predicted, measured/predicted, speed-up, efficiency, wait share, cores used by others',
  ),
  rows: found.map((one) => [
    one.strategy,
    String(one.workers),
    spreadText(one.ttft),
    spreadText(one.reported),
    one.predicted.median.toFixed(2),
    spreadText(one.measuredByPredicted),
    spreadText(one.speedUp),
    percent(one.efficiency),
    percent(one.waitShare.median),
    spreadText(one.otherCores),
  ]),
})

/** Medians of parts add up only nearly to the median of the whole. */
function accountTable(groups: readonly (readonly Run[])[]): ReportPart {
  const accounts = groups.map((runs) => runs.map(({ asked, load }) => accountOf(asked, load)))
  const solo = median(accounts[0]!.map(({ allArithmeticSeconds }) => allArithmeticSeconds))
  const middle = (of: readonly Account[], part: (account: Account) => number): string => median(of.map(part)).toFixed(2)
  return {
    title: 'Where it went, by the worker that ended last: medians in seconds',
    head: columns(
      'strategy, first token, arithmetic, core given to others, wait, before and after, arithmetic of all, against solo, busiest/even share, coordinator and decode node',
    ),
    rows: accounts.map((of, i) => [
      groups[i]![0]!.strategy,
      middle(of, (account) => account.ttftSeconds),
      middle(of, (account) => account.arithmeticSeconds),
      middle(of, (account) => account.displacedSeconds),
      middle(of, (account) => account.waitSeconds),
      middle(of, (account) => account.outsideSeconds),
      middle(of, (account) => account.allArithmeticSeconds),
      middle(of, (account) => account.allArithmeticSeconds / solo),
      middle(of, (account) => account.imbalance),
      middle(of, (account) => account.helperSeconds),
    ]),
  }
}

const workersTable = (groups: readonly (readonly Run[])[]): ReportPart => ({
  title:
    'Each worker, medians in seconds. "on core": CPU time of the arithmetic and of the sockets; ' +
    '"in queue": ready, but the core was given to another thread or program',
  head: columns(
    'strategy, worker, spans, tokens, compute, wait, send, on core: arithmetic, sockets, other, in queue: arithmetic, us of core a token',
  ),
  rows: groups.flatMap((runs) => [...new Set(runs.flatMap(workerIds))].sort().map((id) => workerRow(runs, id))),
})

const workerIds = ({ asked }: Run): string[] => asked.prefill.workers.map(({ id }) => id)

/** One worker over the rounds of one strategy. Spans are those of the last round: measured runs move them a little. */
function workerRow(runs: readonly Run[], id: string): string[] {
  const own = runs.filter((run) => workerIds(run).includes(id))
  const parts = own.map(({ asked }) => asked.prefill.workers.find((worker) => worker.id === id)!)
  const cpus = own.map(({ load }) => load.cpu[id]!)
  const last = parts.at(-1)!
  const seconds = (values: readonly number[]): string => median(values).toFixed(2)
  return [
    own[0]!.strategy,
    id,
    spansText(last.spans),
    String(median(parts.map(({ tokens }) => tokens))),
    seconds(parts.map((part) => part.compute_seconds ?? 0)),
    seconds(parts.map((part) => part.wait_seconds ?? 0)),
    seconds(parts.map((part) => part.send_seconds ?? 0)),
    seconds(cpus.map(({ busiest }) => busiest.seconds)),
    seconds(cpus.map(({ main }) => main.seconds)),
    seconds(cpus.map(({ all, main, busiest }) => all.seconds - main.seconds - busiest.seconds)),
    seconds(cpus.map(({ busiest }) => busiest.queuedSeconds)),
    median(cpus.map(({ busiest }, i) => (busiest.seconds / parts[i]!.tokens) * 1e6)).toFixed(0),
  ]
}

function runText(run: Run): string {
  const { ttftSeconds, prefill } = run.asked
  const shares = prefill.workers.map(({ id, tokens, compute_seconds, wait_seconds }) => {
    const [compute, wait] = [compute_seconds ?? 0, wait_seconds ?? 0]
    return `${id} ${tokens} tokens ${compute.toFixed(2)} s + ${wait.toFixed(2)} s wait`
  })
  const others = foreignCores(run).toFixed(2)
  return `${run.strategy.padEnd(5)} ${ttftSeconds.toFixed(2)} s (${shares.join(', ')}; others used ${others} cores)`
}
