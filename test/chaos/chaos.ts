import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { median } from '../bench/harness/statistics.ts'
import { bundledModel } from '../support/paths.ts'
import { type Ask, type AskLimits, drawAsks } from './asks.ts'
import { type Asked, askPatiently } from './client.ts'
import { ChaosCluster, type ChaosSpec, type Held } from './cluster.ts'
import { Deadline } from './deadline.ts'
import { type Judged, judge, mistakeOf, type Reference } from './judge.ts'
import { Draws } from './random.ts'
import { type Done, Storm } from './storm.ts'

/** A run of chaos: learn the right answers in calm, break things while the same is asked again, heal, and judge. */

export interface ChaosOptions extends Omit<ChaosSpec, 'model'> {
  readonly model?: string
  readonly seed: number
  readonly seconds: number
  /** Mean time between two faults. */
  readonly gapSeconds: number
  /** Requests at the same time. */
  readonly clients: number
  readonly asks: AskLimits
  /** How often every ask is asked before the storm, beside the first time. */
  readonly calmRounds: number
  /** One line: what happens. */
  readonly note: (text: string) => void
}

export interface ChaosResult {
  readonly judged: readonly Judged[]
  readonly done: readonly Done[]
  /** Asks that are answered in more than one way without any fault, which therefore say nothing. */
  readonly unsteady: number
  readonly crashes: readonly string[]
  /** Every worker took runs again after the storm, and every run came to its end everywhere. */
  readonly recovered: boolean
  readonly quiet: boolean
  /** Of a last round of all asks, after the storm. */
  readonly afterwards: readonly Judged[]
  readonly before: readonly Held[]
  readonly after: readonly Held[]
}

const QUIET_SECONDS = 60
/** Workers give memory back when they have had nothing to do for a while. */
const SETTLE_SECONDS = 4

export async function chaos(options: ChaosOptions, signal: AbortSignal): Promise<ChaosResult> {
  const { note, seed, clients, seconds } = options
  const model = options.model ?? bundledModel
  const cluster = await ChaosCluster.start({ ...options, model }, signal)
  const either = AbortSignal.any([signal, cluster.failed.signal])
  try {
    const text = await tokensOf(cluster.url, either)
    const asks = drawAsks(new Draws(seed, 'asks'), text, options.asks)
    note(`cluster ready at ${cluster.url}; asking ${asks.length} prompts ${options.calmRounds + 1} times in calm`)
    const { references, unsteady } = await learn(cluster, asks, options, either)
    const steady = asks.filter(({ id }) => references.has(id))
    const before = await settled(cluster, either)

    note(`storm of ${seconds} s, seed ${seed}`)
    const enough = new Deadline(seconds, either)
    const storm = new Storm(cluster, new Draws(seed, 'faults'), ({ name, fault, from, to }) =>
      note(`  ${(to - from).toFixed(1)} s ${name}: ${JSON.stringify(fault)}`),
    )
    const order = new Draws(seed, 'order')
    const one = async (): Promise<Asked> => told(await askPatiently(cluster.url, order.oneOf(steady), either), note)
    const [asked] = await Promise.all([
      several(clients, () => (enough.signal.aborted ? undefined : one()), either),
      storm.rage(options.gapSeconds, enough.signal, either),
    ])
    enough.clear()
    note('healed; waiting for quiet')
    const recovered = await cluster.untilReady(either)
    const quiet = await cluster.untilQuiet(QUIET_SECONDS, either)
    const afterwards = await each(steady, clients, (ask) => askPatiently(cluster.url, ask, either), either)
    const after = await settled(cluster, either)
    const { done } = storm
    const judged = judge(asked, references, done)
    const { crashes } = cluster
    return {
      judged,
      done,
      unsteady,
      crashes,
      recovered,
      quiet,
      afterwards: judge(afterwards, references, []),
      before,
      after,
    }
  } finally {
    await cluster.close()
  }
}

function told(asked: Asked, note: (text: string) => void): Asked {
  const { ask, outcome, from, to, retries } = asked
  const how = outcome.kind === 'lost' ? `LOST ${outcome.code} (${outcome.message})` : `${retries} retries`
  if (outcome.kind === 'lost' || retries > 0) note(`  ask ${ask.id}: ${how}, ${(to - from).toFixed(1)} s`)
  return asked
}

/** The log-book as the model's tokens. */
async function tokensOf(url: string, signal: AbortSignal): Promise<number[]> {
  const content = await readFile(join(bundledModel, '..', '..', 'demo', 'logbook.txt'), 'utf8')
  const headers = { 'content-type': 'application/json' }
  const answer = await fetch(`${url}/tokenize`, { method: 'POST', headers, body: JSON.stringify({ content }), signal })
  return ((await answer.json()) as { tokens: number[] }).tokens
}

/**
 * The right answer of each ask, and how long it takes beside others: by one worker alone first, then as it will be asked.
 * An ask for whose answer rounding decides between two tokens is left out: it would depend on who is alive.
 */
async function learn(cluster: ChaosCluster, asks: readonly Ask[], options: ChaosOptions, signal: AbortSignal) {
  const { clients, calmRounds } = options
  const alone = asks.map((ask) => ({
    ...ask,
    body: { ...ask.body, headrace: { ...ask.body.headrace, strategy: 'solo' } },
  }))
  const rounds = [alone as unknown as Ask[], ...Array.from({ length: calmRounds }, () => asks)]
  const answers: Asked[][] = []
  for (const round of rounds)
    answers.push(await each(round, clients, (ask) => askPatiently(cluster.url, ask, signal), signal))
  const references = new Map<number, Reference>()
  let unsteady = 0
  for (const { id } of asks) {
    const found = answers.map((round) => round.find(({ ask }) => ask.id === id)!)
    const outcomes = found.map(({ outcome }) => {
      if (outcome.kind === 'lost') throw new Error(`lost in calm: ${outcome.code}: ${outcome.message}`)
      return outcome
    })
    const [{ tokens, text }] = outcomes as [(typeof outcomes)[0]]
    const seconds = median(found.slice(1).map(({ from, to }) => to - from))
    if (outcomes.every((outcome) => mistakeOf(tokens, outcome.tokens) === undefined))
      references.set(id, { tokens, text, seconds })
    else unsteady++
  }
  return { references, unsteady }
}

async function settled(cluster: ChaosCluster, signal: AbortSignal): Promise<Held[]> {
  await cluster.until(async () => false, SETTLE_SECONDS, signal)
  return cluster.held()
}

/** Does `next` for `clients` at the same time, until it has no more. */
async function several<T>(clients: number, next: () => Promise<T> | undefined, signal: AbortSignal): Promise<T[]> {
  const results: T[] = []
  const client = async (): Promise<void> => {
    for (let work = next(); work !== undefined; work = next()) {
      results.push(await work)
      signal.throwIfAborted()
    }
  }
  await Promise.all(Array.from({ length: clients }, client))
  return results
}

function each<T, R>(
  items: readonly T[],
  clients: number,
  work: (item: T) => Promise<R>,
  signal: AbortSignal,
): Promise<R[]> {
  const left = [...items]
  return several(clients, () => (left.length === 0 ? undefined : work(left.shift()!)), signal)
}
