import { wholeNumber } from '../../../shared/cli/options.ts'
import { WEIGHTS } from '../../../shared/engine-name.ts'
import { bundledModel } from '../../support/paths.ts'
import { tokensPrompt } from '../harness/ask.ts'
import { computeBound, longestCompute } from '../harness/bounds.ts'
import { placementText } from '../harness/cluster.ts'
import { coresAllowed, withHosts } from '../harness/hosts.ts'
import { type Place, placeHosts, placesText } from '../harness/places.ts'
import { accuracyOf, accuracyText } from '../harness/predictions.ts'
import { columns, percent, type Report, spreadText } from '../harness/report.ts'
import { median, spreadOf } from '../harness/statistics.ts'
import { CHOSEN, evenSplit, foretold, ofLabel, SOLO, splitOver, type Trial, tryInTurn } from '../harness/trials.ts'
import { modelFolder } from '../models/cache.ts'
import { defineSuite } from '../suite.ts'

/** Whether workers of unlike speed are all used to the full. */
export const unevenSuite = defineSuite({
  name: 'uneven',
  describe: 'Workers of unlike speed (CPU quotas): the planner’s split against an even one and against work over speed',
  options: {
    model: { type: 'string', default: bundledModel, describe: 'Hugging Face model folder, or a shape: smol135, wide' },
    weights: { choices: WEIGHTS, default: 'f32', describe: 'How weights are kept and computed with' },
    speeds: { type: 'array', number: true, default: [1, 0.5, 0.25], describe: 'Of a core each, the fastest first' },
    tokens: { type: 'number', default: 16384, describe: 'Length of the prompt' },
    rounds: { type: 'number', default: 3, describe: 'Runs of each plan, in turn' },
    warmup: { type: 'number', default: 2, describe: 'Rounds before that, not counted: costs are corrected by them' },
  },
  async run(options, { signal, note }) {
    const { weights } = options
    const model = await modelFolder(options.model)
    const rounds = wholeNumber('rounds', options.rounds, 1, 1000)
    const warmup = wholeNumber('warmup', options.warmup, 0, 1000)
    const speeds = options.speeds.map(Number)
    const places = placeHosts(speeds, coresAllowed())
    const size = places.length
    return withHosts({ model, weights, workers: places }, signal, async (cluster) => {
      const prompt = await tokensPrompt(cluster.url, options.tokens, cluster.signal)
      const splits = [
        splitOver('chain', size),
        evenSplit('chain', size),
        splitOver('ring', size),
        evenSplit('ring', size),
      ]
      const candidates = [CHOSEN, SOLO, ...splits]
      const trials = await tryInTurn(cluster, prompt, candidates, { rounds, warmup, note })
      const labels = candidates.map(({ label }) => label)
      return report(placementText(cluster), { speeds, places, labels, tokens: options.tokens }, trials)
    })
  },
})

interface Setting {
  readonly speeds: readonly number[]
  readonly places: readonly Place[]
  readonly labels: readonly string[]
  readonly tokens: number
}

function report(placement: string, { speeds, places, labels, tokens }: Setting, trials: readonly Trial[]): Report {
  const fastest = Math.max(...speeds)
  const solo = median(ofLabel(trials, SOLO.label).map(({ asked }) => longestCompute(asked)))
  const ideal = computeBound(
    solo,
    speeds.map((speed) => speed / fastest),
  )
  const found = labels.map((label) => summary(label, ofLabel(trials, label), ideal))
  const told = trials.map(foretold)
  return {
    parts: [
      { line: placement },
      { line: `${tokens} tokens; speeds ${speeds.join(' : ')}; ${placesText(places)}.` },
      {
        title:
          `Seconds to the first token, median (least-most). All the work over all the speed is ${ideal.toFixed(2)} s: ` +
          `${solo.toFixed(2)} s of the fastest alone`,
        head: columns(
          'plan, TTFT, predicted, work over speed/TTFT, tokens of each worker, compute of each, wait of each',
        ),
        rows: found.map((one) => [
          one.label,
          spreadText(one.ttft),
          one.predicted.toFixed(2),
          percent(one.efficiency),
          one.tokens.join(' + '),
          one.compute.map((seconds) => seconds.toFixed(2)).join(', '),
          one.wait.map((seconds) => seconds.toFixed(2)).join(', '),
        ]),
      },
      { line: accuracyText(told) },
    ],
    data: { placement, tokens, speeds, places, idealSeconds: ideal, found, accuracy: accuracyOf(told), trials },
  }
}

/** Medians of one plan's rounds; what each worker did is the last round's. */
function summary(label: string, trials: readonly Trial[], ideal: number) {
  const told = trials.map(foretold)
  const ttft = spreadOf(told.map(({ measuredSeconds }) => measuredSeconds))
  const { workers } = trials.at(-1)!.asked.prefill
  return {
    label,
    ttft,
    predicted: median(told.map(({ predictedSeconds }) => predictedSeconds)),
    efficiency: ideal / ttft.median,
    tokens: workers.map((worker) => worker.tokens),
    compute: workers.map(({ compute_seconds }) => compute_seconds ?? 0),
    wait: workers.map(({ wait_seconds }) => wait_seconds ?? 0),
  }
}
