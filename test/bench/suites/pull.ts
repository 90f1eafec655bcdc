import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { firstLine, startHeadrace } from '../../../coordinator/cli/processes.ts'
import { wholeNumber } from '../../../shared/cli/options.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { llamaShape } from '../../support/llama-shape.ts'
import { columns, type Report, spreadText } from '../harness/report.ts'
import { spreadOf } from '../harness/statistics.ts'
import { cached } from '../models/cache.ts'
import { writeFolder } from '../models/huggingface.ts'
import { defineSuite } from '../suite.ts'

/** 51 M parameters: 102 MB in bfloat16. */
const SHAPE = llamaShape({
  layers: 11,
  hidden: 512,
  heads: 8,
  kvHeads: 4,
  headDim: 64,
  ffn: 1536,
  vocab: 32_000,
  contextLength: 4096,
  tiedHead: true,
})
const BAR_SECONDS = 3

/** How long a worker with an empty disk takes to get its model. */
export const pullSuite = defineSuite({
  name: 'pull',
  describe: 'Weights to workers that have none: one, one that is killed on the way, two at once',
  options: {
    rounds: { type: 'number', default: 5, describe: 'Times each' },
  },
  async run(options, { signal, note }) {
    const rounds = wholeNumber('rounds', options.rounds, 1, 100)
    const model = await cached('pull-100mb-v1', (path) => writeFolder(path, SHAPE, 1, 'BF16'))
    const site = await Site.start(model, signal)
    try {
      const found: Round[] = []
      for (let round = 0; round < rounds; round++) {
        found.push(await site.round())
        const { one, both, resumed } = found.at(-1)!
        note(
          `round ${round + 1} of ${rounds}: alone ${one.seconds.toFixed(2)} s, two at once ${both.seconds.toFixed(2)} s, ` +
            `after a kill ${(resumed.bytes / 1e6).toFixed(0)} MB to go`,
        )
      }
      return report(found)
    } finally {
      await site.close()
    }
  },
})

interface Fetched {
  readonly bytes: number
  /** From the worker's decision to fetch to the last byte checked, as it logs them. */
  readonly seconds: number
  /** From the start of its process. */
  readonly sinceStart: number
}

interface Round {
  readonly one: Fetched
  /** Of two that started together, the later one; and what the coordinator sent for both. */
  readonly both: Fetched & { readonly sentByCoordinator: number }
  /** After `kill -9` in mid-download. */
  readonly resumed: Fetched
}

/** A coordinator, and a folder for the caches of workers that come and go. */
class Site {
  readonly #url: string
  readonly #coordinator: ChildProcess
  readonly #folder: string
  readonly #signal: AbortSignal
  #caches = 0

  private constructor(url: string, coordinator: ChildProcess, folder: string, signal: AbortSignal) {
    this.#url = url
    this.#coordinator = coordinator
    this.#folder = folder
    this.#signal = signal
  }

  static async start(model: string, signal: AbortSignal): Promise<Site> {
    const folder = await mkdtemp(join(tmpdir(), 'headrace-pull-'))
    const args = ['coordinator', '--model', model, '--port', '0', '--cache', join(folder, 'own'), '--log-level', 'warn']
    const coordinator = startHeadrace(args)
    return new Site(await firstLine(coordinator, signal), coordinator, folder, signal)
  }

  async round(): Promise<Round> {
    const one = await this.#fetch(this.#newCache())
    const before = await this.#sent()
    const pair = await Promise.all([this.#fetch(this.#newCache()), this.#fetch(this.#newCache())])
    const sentByCoordinator = (await this.#sent()) - before
    const [later] = pair.sort((a, b) => b.seconds - a.seconds)
    return { one, both: { ...later!, sentByCoordinator }, resumed: await this.#killed() }
  }

  async close(): Promise<void> {
    await kill(this.#coordinator)
    await rm(this.#folder, { recursive: true, force: true })
  }

  #newCache = (): string => join(this.#folder, String(this.#caches++))

  #worker(cache: string, name: string = basename(cache)): ChildProcess {
    const args = ['worker', '--join', this.#url, '--cache', cache, '--name', name]
    return startHeadrace([...args, '--threads', '1'], { errors: 'pipe' })
  }

  /** Up to the model's arrival; what follows is not measured. */
  async #fetch(cache: string): Promise<Fetched> {
    const started = performance.now()
    const worker = this.#worker(cache)
    try {
      const { bytes, seconds } = await logged(worker, /fetched the model|the model is in the cache/, this.#signal)
      return { bytes, seconds, sinceStart: (performance.now() - started) / 1000 }
    } finally {
      await kill(worker)
    }
  }

  async #killed(): Promise<Fetched> {
    const cache = this.#newCache()
    const name = `killed-${basename(cache)}`
    const first = this.#worker(cache, name)
    await logged(first, /fetching the model/, this.#signal)
    while (!(await this.#hasSome(name))) this.#signal.throwIfAborted()
    await kill(first)
    return this.#fetch(cache)
  }

  /** Also when it has all: then the kill came too late, and nothing is left to fetch. */
  async #hasSome(name: string): Promise<boolean> {
    const answer = await fetch(`${this.#url}/v1/cluster`, { signal: this.#signal })
    const { workers } = (await answer.json()) as { workers: { id: string; model_share?: number }[] }
    return workers.some(({ id, model_share }) => id === name && (model_share ?? 1) > 0)
  }

  async #sent(): Promise<number> {
    const text = await (await fetch(`${this.#url}/metrics`, { signal: this.#signal })).text()
    return Number(/^headrace_weights_sent_bytes_total (\d+)/m.exec(text)?.[1] ?? 0)
  }
}

/** The log line of a process that says this. */
async function logged(
  child: ChildProcess,
  what: RegExp,
  signal: AbortSignal,
): Promise<{ bytes: number; seconds: number }> {
  let rest = ''
  for await (const piece of child.stderr!.iterator({ destroyOnReturn: false })) {
    signal.throwIfAborted()
    const lines = (rest + String(piece)).split('\n')
    rest = lines.pop() ?? ''
    const found = lines.find((line) => what.test(line))
    if (found !== undefined) return JSON.parse(found) as { bytes: number; seconds: number }
  }
  throw new HeadraceError('worker_lost', `a worker ended before it said: ${what}`)
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGKILL')
  await once(child, 'exit')
}

function report(found: readonly Round[]): Report {
  const rowOf = (name: string, fetched: readonly Fetched[]): string[] => {
    const rate = fetched.map(({ bytes, seconds }) => bytes / 1e6 / seconds)
    return [
      name,
      spreadText(spreadOf(fetched.map(({ bytes }) => bytes / 1e6))),
      spreadText(spreadOf(fetched.map(({ seconds }) => seconds))),
      spreadText(spreadOf(rate)),
      spreadText(spreadOf(fetched.map(({ sinceStart }) => sinceStart))),
    ]
  }
  const worst = Math.max(...found.map(({ one }) => one.seconds))
  const sent = spreadOf(found.map(({ both }) => both.sentByCoordinator / both.bytes))
  return {
    parts: [
      { line: 'A folder of 51 M parameters in bfloat16, over loopback into an empty cache, every byte hashed twice.' },
      {
        title: 'Median (least-most)',
        head: columns('worker, MB to come, seconds, MB/s, seconds since the process was started'),
        rows: [
          rowOf(
            'alone',
            found.map(({ one }) => one),
          ),
          rowOf(
            'the later of two at once',
            found.map(({ both }) => both),
          ),
          rowOf(
            'after kill -9 in mid-download',
            found.map(({ resumed }) => resumed),
          ),
        ],
      },
      { line: `For two at once the coordinator sent the model ${spreadText(sent)} times.` },
      {
        line: `100 MB within ${BAR_SECONDS} s: ${worst <= BAR_SECONDS ? 'met' : 'NOT MET'} (slowest ${worst.toFixed(2)} s).`,
      },
    ],
    data: { rounds: found },
  }
}
