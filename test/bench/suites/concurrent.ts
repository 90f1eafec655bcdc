import { wholeNumber } from '../../../shared/cli/options.ts'
import { WEIGHTS } from '../../../shared/engine-name.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import { bundledModel } from '../../support/paths.ts'
import { type Asked, ask, type Prompt, tokensPrompt } from '../harness/ask.ts'
import { coresAllowed, withHosts } from '../harness/hosts.ts'
import { withEach } from '../harness/load.ts'
import { columns, percent, type Report, spreadText } from '../harness/report.ts'
import { inversions, median, rotated, spreadOf, sum } from '../harness/statistics.ts'
import { modelFolder } from '../models/cache.ts'
import { defineSuite } from '../suite.ts'

/** What a cluster does with many prompts at once, against workers that have nothing to do with each other. */
export const concurrentSuite = defineSuite({
  name: 'concurrent',
  describe: 'Many prompts at once: one cluster against as many clusters of one worker, on the same cores',
  options: {
    model: { type: 'string', default: bundledModel, describe: 'Hugging Face model folder, or a shape: smol135, wide' },
    weights: { choices: WEIGHTS, default: 'f32', describe: 'How weights are kept and computed with' },
    workers: { type: 'number', default: 2, describe: 'Workers, one core each' },
    prompts: { type: 'number', default: 8, describe: 'At once; the clusters of one worker take them in turn' },
    tokens: { type: 'number', default: 2048, describe: 'Length of each prompt' },
    rounds: { type: 'number', default: 3, describe: 'Of both, in turn' },
    warmup: { type: 'number', default: 1, describe: 'Rounds before that, not counted' },
  },
  async run(options, { signal, note }) {
    const { weights } = options
    const model = await modelFolder(options.model)
    const rounds = wholeNumber('rounds', options.rounds, 1, 1000)
    const warmup = wholeNumber('warmup', options.warmup, 0, 1000)
    const count = wholeNumber('prompts', options.prompts, 1, 1000)
    const cores = coresAllowed()
    const places = Array.from({ length: wholeNumber('workers', options.workers, 1, 64) }, (_, i) => ({
      core: cores[i % cores.length]!,
      share: 1,
    }))
    const singles = places.map((place) => ({ model, weights, workers: [place] }))
    return withHosts({ model, weights, workers: places }, signal, (cluster) =>
      withEach(singles, cluster.signal, async (alone) => {
        const all = alone.at(-1)!.signal
        const prompt = await tokensPrompt(cluster.url, options.tokens, all)
        const prompts = Array.from({ length: count }, (_, i) => turned(prompt, i))
        const ways = [
          { label: 'one cluster', urls: [cluster.url] },
          { label: `${alone.length} of one worker`, urls: alone.map(({ url }) => url) },
        ]
        const found = ways.map(({ label }) => ({ label, bursts: [] as Burst[] }))
        for (let round = -warmup; round < rounds; round++)
          for (const way of rotated(ways, round + warmup)) {
            const burst = await askAtOnce(way.urls, prompts, all)
            if (round >= 0) found.find(({ label }) => label === way.label)!.bursts.push(burst)
            note(`${round < 0 ? 'warm-up' : `round ${round + 1} of ${rounds}`}: ${way.label}, ${burstText(burst)}`)
          }
        return report(
          found,
          `${count} prompts of ${options.tokens} tokens at once, ${places.length} workers of one core each.`,
        )
      }),
    )
  },
})

/** Prompts that arrive together, in this order. */
interface Burst {
  readonly seconds: number
  readonly answers: readonly (Asked & { readonly finishedSeconds: number })[]
}

/** So that requests arrive in a known order: a connection takes less, and so does a plan. */
const APART_SECONDS = 0.02

async function askAtOnce(urls: readonly string[], prompts: readonly Prompt[], signal: AbortSignal): Promise<Burst> {
  const started = performance.now()
  const elapsed = (): number => (performance.now() - started) / 1000
  const answers = await Promise.all(
    prompts.map(async (prompt, i) => {
      await realClock.sleep(i * APART_SECONDS, signal)
      const asked = await ask(urls[i % urls.length]!, prompt, {}, signal)
      return { ...asked, finishedSeconds: elapsed() }
    }),
  )
  return { seconds: elapsed(), answers }
}

/** Another prompt of the same length: nothing stored of one helps with the next. */
function turned(prompt: Prompt, by: number): Prompt {
  const { prompt: tokens, ...body } = prompt.body as { prompt: number[] }
  return { ...prompt, body: { ...body, prompt: rotated(tokens, by * 97) } }
}

const promptTokens = ({ answers }: Burst): number => sum(answers.map((answer) => answer.promptTokens))

const burstText = (burst: Burst): string =>
  `${(promptTokens(burst) / burst.seconds).toFixed(0)} tokens/s, first tokens after ${burst.answers.map(({ ttftSeconds }) => ttftSeconds.toFixed(2)).join(', ')} s`

function summary(label: string, bursts: readonly Burst[]) {
  const ttfts = bursts.flatMap(({ answers }) => answers.map(({ ttftSeconds }) => ttftSeconds))
  const pairs = (count: number): number => Math.max(1, (count * (count - 1)) / 2)
  const last = bursts.at(-1)!.answers
  return {
    label,
    tokensPerSecond: spreadOf(bursts.map((burst) => promptTokens(burst) / burst.seconds)),
    ttft: spreadOf(ttfts),
    /** Pairs of prompts of which the later had its first token, or its whole answer, earlier. */
    startedOutOfOrder: median(bursts.map(({ answers }) => inversions(answers.map(startOf)) / pairs(answers.length))),
    finishedOutOfOrder: median(
      bursts.map(({ answers }) => inversions(answers.map((one) => one.finishedSeconds)) / pairs(answers.length)),
    ),
    order: last.map((_, i) => i + 1).sort((x, y) => last[x - 1]!.finishedSeconds - last[y - 1]!.finishedSeconds),
    plans: [...new Set(bursts.flatMap(({ answers }) => answers.map(planText)))],
  }
}

const startOf = ({ finishedSeconds, totalSeconds, ttftSeconds }: Burst['answers'][number]): number =>
  finishedSeconds - totalSeconds + ttftSeconds

const planText = ({ prefill }: Asked): string => `${prefill.strategy} ${prefill.workers.length}`

function report(groups: readonly { label: string; bursts: readonly Burst[] }[], setting: string): Report {
  const found = groups.map(({ label, bursts }) => summary(label, bursts))
  const [together, apart] = found
  return {
    parts: [
      { line: setting },
      {
        title: 'Median (least-most) over the rounds',
        head: columns(
          'workers as, prompt tokens/s, seconds to first token, started out of order, finished out of order, plans, order of the last round',
        ),
        rows: found.map((one) => [
          one.label,
          spreadText(one.tokensPerSecond, 0),
          spreadText(one.ttft),
          percent(one.startedOutOfOrder),
          percent(one.finishedOutOfOrder),
          one.plans.join(', '),
          one.order.join(' '),
        ]),
      },
      {
        line:
          `One cluster computes ${(together!.tokensPerSecond.median / apart!.tokensPerSecond.median).toFixed(2)} times the ` +
          `tokens of workers apart, and its median first token comes after ${(together!.ttft.median / apart!.ttft.median).toFixed(2)} times as long.`,
      },
    ],
    data: { setting, found, rounds: groups },
  }
}
