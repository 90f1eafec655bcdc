import { wholeNumber } from '../../../shared/cli/options.ts'
import { WEIGHTS } from '../../../shared/engine-name.ts'
import { bundledModel } from '../../support/paths.ts'
import { tokensPrompt } from '../harness/ask.ts'
import { placementText } from '../harness/cluster.ts'
import { coresAllowed, withHosts } from '../harness/hosts.ts'
import { linkText, parseLinkShape } from '../harness/link-shape.ts'
import { placeCluster, placesText } from '../harness/places.ts'
import { columns, percent, type Report, spreadText } from '../harness/report.ts'
import { median, spreadOf } from '../harness/statistics.ts'
import { ofLabel, SOLO, splitOver, type Trial, tryInTurn } from '../harness/trials.ts'
import { modelFolder } from '../models/cache.ts'
import { defineSuite } from '../suite.ts'

/** How much later the first token comes because the KV cache has to reach the decode node. */
export const handoffSuite = defineSuite({
  name: 'handoff',
  describe: 'From the last worker’s last layer to the first token, over links of several rates',
  options: {
    model: { type: 'string', default: bundledModel, describe: 'Hugging Face model folder, or a shape: smol135, wide' },
    weights: { choices: WEIGHTS, default: 'f32', describe: 'How weights are kept and computed with' },
    workers: { type: 'number', default: 2, describe: 'Hosts that compute; with fewer cores each gets a share of one' },
    links: { type: 'array', string: true, default: ['loopback', '10g'], describe: 'loopback, or such as 10g, 20ms' },
    tokens: { type: 'number', default: 4096, describe: 'Length of the prompt' },
    rounds: { type: 'number', default: 5, describe: 'Runs of each plan, in turn' },
    warmup: { type: 'number', default: 1, describe: 'Rounds before that, not counted' },
  },
  async run(options, { signal, note }) {
    const { weights } = options
    const model = await modelFolder(options.model)
    const rounds = wholeNumber('rounds', options.rounds, 1, 1000)
    const warmup = wholeNumber('warmup', options.warmup, 0, 1000)
    const workers = wholeNumber('workers', options.workers, 2, 64)
    const places = placeCluster(workers, coresAllowed())
    const candidates = [SOLO, splitOver('chain', workers), splitOver('ring', workers)]
    const found: Found[] = []
    for (const text of options.links.map(String)) {
      const link = text === 'loopback' ? undefined : parseLinkShape(text)
      await withHosts({ model, weights, ...places, link }, signal, async (cluster) => {
        const rate = `${(((cluster.measured?.bytesPerSecond ?? 0) * 8) / 1e9).toFixed(2)} Gbit/s measured`
        const name = link === undefined ? text : `${linkText(link)} (${rate})`
        note(`${name}: ${placementText(cluster)}`)
        const prompt = await tokensPrompt(cluster.url, options.tokens, cluster.signal)
        const trials = await tryInTurn(cluster, prompt, candidates, { rounds, warmup, note })
        found.push(...candidates.map(({ label }) => summary(name, label, ofLabel(trials, label))))
      })
    }
    return report(found, `${options.tokens} tokens; ${placesText(places.workers, places.decode)}.`)
  },
})

type Found = ReturnType<typeof summary>

function summary(link: string, label: string, trials: readonly Trial[]) {
  const ttft = trials.map(({ asked }) => asked.prefill.ttft_seconds)
  // Blocks and news travel on different links: where the news is slower, nothing was waited for.
  const after = trials.map(({ asked }, i) => Math.max(0, ttft[i]! - (asked.computedSeconds ?? ttft[i]!)))
  return {
    link,
    label,
    ttft: spreadOf(ttft),
    after: spreadOf(after),
    share: median(after.map((seconds, i) => seconds / ttft[i]!)),
    bytes: median(trials.map(({ asked: { prefill } }) => handedOver(prefill))),
  }
}

/** Bytes of KV that went to the decode node. */
const handedOver = ({ links, decode }: Trial['asked']['prefill']): number =>
  (links ?? []).filter(({ to }) => to === decode).reduce((total, { bytes }) => total + bytes, 0)

const report = (found: readonly Found[], setting: string): Report => ({
  parts: [
    { line: setting },
    {
      title:
        'Seconds, median (least-most): "after" is from the moment when the coordinator heard that the last worker had ' +
        'computed its last layer to the first token: the rest of the hand-off, and the decode node’s own tokens',
      head: columns('link, plan, TTFT, after, share of TTFT, MB handed over'),
      rows: found.map((one) => [
        one.link,
        one.label,
        spreadText(one.ttft),
        spreadText(one.after, 3),
        percent(one.share),
        (one.bytes / 1e6).toFixed(1),
      ]),
    },
  ],
  data: { setting, found },
})
