import { startLocalCluster } from '../../../coordinator/cli/local-cluster.ts'
import { wholeNumber } from '../../../shared/cli/options.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import { bundledModel } from '../../support/paths.ts'
import { seededRandom } from '../../support/random.ts'
import { tokensPrompt } from '../harness/ask.ts'
import { type Attempt, LoadClients, type LoadPrompt, tryOnce } from '../harness/load-clients.ts'
import { memoryOf } from '../harness/proc.ts'
import { mebibytes, type Report, spreadText } from '../harness/report.ts'
import { spreadOf } from '../harness/statistics.ts'
import { modelFolder } from '../models/cache.ts'
import { defineSuite } from '../suite.ts'

/** Far more clients than the cluster has places: nothing may break, grow without end, or answer wrong. */
export const loadSuite = defineSuite({
  name: 'load',
  describe: 'Many clients with prompts of mixed length against a real cluster: memory of each process over time',
  options: {
    model: { type: 'string', default: bundledModel, describe: 'Hugging Face model folder, or a shape: smol135, wide' },
    workers: { type: 'number', default: 2, describe: 'Prefill workers' },
    'decode-nodes': { type: 'number', default: 1, describe: 'Decode nodes' },
    clients: { type: 'number', default: 200, describe: 'At the same time, each with one request after the other' },
    seconds: { type: 'number', default: 120, describe: 'How long they go on asking' },
    every: { type: 'number', default: 10, describe: 'Seconds between two looks at the memory' },
    longest: { type: 'number', default: 8192, describe: 'Tokens of the longest prompt' },
    prompts: { type: 'number', default: 24, describe: 'Different prompts; each has a reference answer' },
  },
  async run(options, { signal, note }) {
    const clients = wholeNumber('clients', options.clients, 1, 10_000)
    const seconds = wholeNumber('seconds', options.seconds, 1, 86_400)
    const every = wholeNumber('every', options.every, 1, 3600)
    const { url, group } = await startLocalCluster(
      {
        model: await modelFolder(options.model),
        workers: wholeNumber('workers', options.workers, 1, 64),
        decodeNodes: wholeNumber('decode-nodes', options['decode-nodes'], 1, 16),
        engine: 'onnx',
        weights: 'f32',
        threads: 1,
        pin: false,
        logLevel: 'error',
        port: 0,
        strategy: 'auto',
        // Every strategy and every order then gives the same answer to the last bit that matters.
        wire: 'f32',
      },
      signal,
    )
    const failing = AbortSignal.any([signal, group.failed])
    try {
      const count = wholeNumber('prompts', options.prompts, 1, 1000)
      const lengths = mixedLengths(count, wholeNumber('longest', options.longest, 64, 2 ** 20))
      const prompts = await references(url, lengths, failing, note)
      const started = performance.now()
      const load = new LoadClients(url, prompts, seededRandom(20_261_123), failing)
      const rows: Row[] = []
      const look = (): void => {
        const row = { seconds: (performance.now() - started) / 1000, ...load.counts(), memory: memoryNow(group.pids) }
        rows.push(row)
        note(rowText(row).join('  '))
      }
      look()
      const asking = load.run(clients, seconds)
      let asked = false
      void asking.finally(() => {
        asked = true
      })
      while (!asked) {
        await Promise.race([asking, realClock.sleep(every, failing)])
        look()
      }
      const attempts = await asking
      await realClock.sleep(every, failing)
      look()
      return report(attempts, rows, `${clients} clients for ${seconds} s; prompts of ${lengths.join(', ')} tokens.`)
    } finally {
      await group.stop()
    }
  },
})

interface Row {
  readonly seconds: number
  readonly answered: number
  readonly refused: number
  readonly other: number
  readonly underWay: number
  /** Resident bytes by process; of the clients, this one's. */
  readonly memory: Readonly<Record<string, number>>
}

/** Evenly on a logarithmic scale: many short ones, a few that take as long as all of those together. */
const mixedLengths = (count: number, longest: number): number[] =>
  Array.from({ length: count }, (_, i) => Math.round(24 * (longest / 24) ** (i / Math.max(1, count - 1))))

/** Asked one after the other and by one worker alone, before there is any load. */
async function references(
  url: string,
  lengths: readonly number[],
  signal: AbortSignal,
  note: (text: string) => void,
): Promise<LoadPrompt[]> {
  const prompts: LoadPrompt[] = []
  for (const [i, tokens] of lengths.entries()) {
    const whole = (await tokensPrompt(url, tokens + 97 * i, signal)).body as { prompt: number[] }
    const body = { ...whole, prompt: whole.prompt.slice(97 * i), max_tokens: 12, temperature: 0 }
    const asked = await tryOnce(
      url,
      { tokens, body: { ...body, headrace: { strategy: 'solo', ignore_eos: true } } },
      signal,
    )
    if (asked.kind !== 'answered') throw new Error(`no reference for ${tokens} tokens: ${asked.why}`)
    prompts.push({ tokens, body, reference: asked.text })
  }
  note(`${prompts.length} reference answers`)
  return prompts
}

const memoryNow = (pids: ReadonlyMap<string, number>): Row['memory'] => ({
  ...Object.fromEntries([...pids].map(([name, pid]) => [name, memoryOf(pid).residentBytes])),
  clients: process.memoryUsage.rss(),
})

const rowText = ({ seconds, answered, refused, other, underWay, memory }: Row): string[] => [
  seconds.toFixed(0),
  ...[answered, refused, other, underWay].map(String),
  ...Object.values(memory).map(mebibytes),
]

function report(attempts: readonly Attempt[], rows: readonly Row[], setting: string): Report {
  const answered = attempts.filter((attempt) => attempt.kind === 'answered')
  const refused = attempts.filter(({ kind }) => kind === 'refused')
  const other = attempts.filter((attempt) => attempt.kind === 'other')
  const wrong = answered.filter(({ right }) => !right)
  if (other.length > 0 || wrong.length > 0) process.exitCode = 1
  const names = Object.keys(rows[0]!.memory)
  const half = rows.at(-1)!.seconds / 2
  const most = (name: string, late: boolean): number =>
    Math.max(...rows.filter(({ seconds }) => seconds > half === late).map(({ memory }) => memory[name]!))
  const growth = names.map((name) => `${name} ${(most(name, true) / most(name, false)).toFixed(2)}`)
  const reasons = [...new Set(other.map(({ why }) => why))].slice(0, 5)
  return {
    parts: [
      { line: setting },
      {
        title: 'Requests so far, and resident MiB of each process',
        head: ['seconds', 'answered', 'refused (429)', 'other', 'under way', ...names],
        rows: rows.map(rowText),
      },
      {
        line:
          `${attempts.length} requests: ${answered.length} answered, ${refused.length} refused with 429, ${other.length} other` +
          `${reasons.length === 0 ? '' : ` (${reasons.join('; ')})`}. ` +
          `${answered.length - wrong.length} of ${answered.length} answers are the reference's.`,
      },
      { line: `Most memory of the second half over that of the first: ${growth.join(', ')}.` },
      {
        title: 'Seconds to a whole answer, of those that were let in',
        head: ['prompt', 'requests', 'median (least-most)'],
        rows: byLength(answered),
      },
    ],
    data: { setting, rows, answered: answered.length, refused: refused.length, other: reasons, wrong: wrong.length },
  }
}

function byLength(answered: readonly Extract<Attempt, { kind: 'answered' }>[]): string[][] {
  const bounds = [0, 128, 512, 2048, Number.POSITIVE_INFINITY]
  return bounds.slice(1).flatMap((most, i) => {
    const some = answered.filter(({ tokens }) => tokens > bounds[i]! && tokens <= most)
    if (some.length === 0) return []
    const name = most === Number.POSITIVE_INFINITY ? `over ${bounds[i]} tokens` : `up to ${most} tokens`
    return [[name, String(some.length), spreadText(spreadOf(some.map(({ seconds }) => seconds)), 1)]]
  })
}
