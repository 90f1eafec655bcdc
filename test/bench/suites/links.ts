import { wholeNumber } from '../../../shared/cli/options.ts'
import { WEIGHTS } from '../../../shared/engine-name.ts'
import { WIRES } from '../../../shared/plan.ts'
import { bundledModel } from '../../support/paths.ts'
import { tokensPrompt } from '../harness/ask.ts'
import { computeBound, linkBound, longestCompute } from '../harness/bounds.ts'
import { placementText } from '../harness/cluster.ts'
import { coresAllowed, type HostsCluster, withHosts } from '../harness/hosts.ts'
import { type LinkShape, linkText, parseLinkShape } from '../harness/link-shape.ts'
import { placeCluster, placesText } from '../harness/places.ts'
import { accuracyOf, accuracyText, regretOf } from '../harness/predictions.ts'
import { columns, type Report, type ReportPart, spreadText } from '../harness/report.ts'
import { median, spreadOf } from '../harness/statistics.ts'
import { CHOSEN, everyCandidate, foretold, ofLabel, shapeText, type Trial, tryInTurn } from '../harness/trials.ts'
import { modelFolder } from '../models/cache.ts'
import { defineSuite } from '../suite.ts'

/** Whether the planner chooses well when hosts are joined by links of a given rate and delay. */
export const linksSuite = defineSuite({
  name: 'links',
  describe: 'Simulated hosts over shaped links: every plan measured, beside the planner’s choice and its predictions',
  options: {
    model: { type: 'string', default: bundledModel, describe: 'Hugging Face model folder, or a shape: smol135, wide' },
    weights: { choices: WEIGHTS, default: 'f32', describe: 'How weights are kept and computed with' },
    workers: { type: 'number', default: 4, describe: 'Hosts that compute; with fewer cores each gets a share of one' },
    links: { type: 'array', string: true, default: ['10g', '1g', '100m', '1g+20ms'], describe: 'Such as 10g, 20ms' },
    wires: {
      type: 'array',
      choices: WIRES,
      describe: 'Narrowest KV on links, each in turn [default: the coordinator’s]',
    },
    tokens: { type: 'number', default: 4096, describe: 'Length of the prompt' },
    rounds: { type: 'number', default: 3, describe: 'Runs of each plan, in turn' },
    warmup: { type: 'number', default: 1, describe: 'Rounds before that, not counted' },
  },
  async run(options, { signal, note }) {
    const { weights } = options
    const model = await modelFolder(options.model)
    const rounds = wholeNumber('rounds', options.rounds, 1, 1000)
    const warmup = wholeNumber('warmup', options.warmup, 0, 1000)
    const workers = wholeNumber('workers', options.workers, 1, 64)
    const places = placeCluster(workers, coresAllowed())
    const settings = options.links
      .map((text) => parseLinkShape(String(text)))
      .flatMap((link) => (options.wires ?? [undefined]).map((wire) => ({ link, wire })))
    const found: Found[] = []
    for (const { link, wire } of settings) {
      note(`${linkText(link)}${wire === undefined ? '' : `, ${wire}`}`)
      found.push(
        await withHosts({ model, weights, wire, ...places, link }, signal, async (cluster) => {
          const prompt = await tokensPrompt(cluster.url, options.tokens, cluster.signal)
          const candidates = [CHOSEN, ...everyCandidate(workers)]
          const trials = await tryInTurn(cluster, prompt, candidates, { rounds, warmup, note })
          return { link, wire, ...factsOf(cluster), trials }
        }),
      )
    }
    return report(found, places, options.tokens)
  },
})

type Places = ReturnType<typeof placeCluster>

interface Found {
  readonly link: LinkShape
  readonly wire: string | undefined
  readonly network: string
  readonly placement: string
  readonly bytesPerSecond: number
  readonly rttSeconds: number
  readonly trials: readonly Trial[]
}

const factsOf = (cluster: HostsCluster) => ({
  network: cluster.network!.kind,
  placement: placementText(cluster),
  ...cluster.measured!,
})

function report(found: readonly Found[], places: Places, tokens: number): Report {
  const parts: ReportPart[] = [
    { line: `${tokens} tokens; ${placesText(places.workers, places.decode)}; hosts are ${found[0]!.network}.` },
    ...found.flatMap((one) => [planTable(one, places.workers.length), { line: verdict(one) }]),
    { line: accuracyText(found.flatMap(({ trials }) => trials.map(foretold))) },
  ]
  const data = found.map((one) => ({ ...one, ...accuracyOf(one.trials.map(foretold)), verdict: verdict(one) }))
  return { parts, data: { tokens, places, found: data } }
}

function planTable({ link, wire, trials, bytesPerSecond, rttSeconds }: Found, workers: number): ReportPart {
  const labels = [...new Set(trials.map(({ label }) => label))].sort((x, y) => rank(x) - rank(y))
  const solo = median(ofLabel(trials, 'solo').map(({ asked }) => longestCompute(asked)))
  const rate = `${((bytesPerSecond * 8) / 1e9).toFixed(2)} Gbit/s, round trip ${(rttSeconds * 1000).toFixed(1)} ms measured`
  return {
    title:
      `${linkText(link)}${wire === undefined ? '' : `, KV as ${wire}`} (${rate}): seconds to the first token, ` +
      `median (least-most); the compute bound of all ${workers} workers and the decode node is ` +
      `${computeBound(solo, new Array<number>(workers + 1).fill(1)).toFixed(2)} s`,
    head: columns(
      'plan, was, TTFT, predicted, measured/predicted, longest compute, compute bound, link bound, wait, MB sent',
    ),
    rows: labels.map((label) => {
      const own = ofLabel(trials, label)
      const told = own.map(foretold)
      const used = hostsOf(own.at(-1)!)
      const middle = (of: (trial: Trial) => number): string => median(own.map(of)).toFixed(2)
      return [
        label,
        [...new Set(own.map(shapeText))].join(', '),
        spreadText(spreadOf(told.map(({ measuredSeconds }) => measuredSeconds))),
        median(told.map(({ predictedSeconds }) => predictedSeconds)).toFixed(2),
        spreadText(spreadOf(told.map((one) => one.measuredSeconds / one.predictedSeconds))),
        middle(({ asked }) => longestCompute(asked)),
        computeBound(solo, new Array<number>(used).fill(1)).toFixed(2),
        middle(({ asked }) => linkBound(asked, bytesPerSecond)),
        middle(({ asked }) => Math.max(0, ...asked.prefill.workers.map(({ wait_seconds }) => wait_seconds ?? 0))),
        middle(({ asked }) => (asked.prefill.links ?? []).reduce((total, { bytes }) => total + bytes, 0) / 1e6),
      ]
    }),
  }
}

/** Those that computed; the decode node does, unless it is left nothing but the last token. */
const hostsOf = ({ asked: { prefill, promptTokens } }: Trial): number => {
  const taken = prefill.workers.reduce((sum, { tokens }) => sum + tokens, 0)
  return prefill.workers.length + Number(taken < promptTokens - 1)
}

/** Rounds begin with different plans: the table begins with the planner's. */
const rank = (label: string): number =>
  label === CHOSEN.label ? 0 : label === 'solo' ? 1 : label.startsWith('chain') ? 2 : 3

function verdict({ trials, link }: Found): string {
  const seconds = (label: string): number =>
    median(ofLabel(trials, label).map((trial) => foretold(trial).measuredSeconds))
  const labels = [...new Set(trials.map(({ label }) => label))].filter((label) => label !== CHOSEN.label)
  const tried = labels.map((label) => ({ label, seconds: seconds(label) }))
  const { best, ratio } = regretOf(seconds(CHOSEN.label), tried)
  const chosen = [...new Set(ofLabel(trials, CHOSEN.label).map(shapeText))].join(', ')
  return `${linkText(link)}: chosen was ${chosen}, best measured ${best}; the choice took ${ratio.toFixed(2)} times the best.`
}
