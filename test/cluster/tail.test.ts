import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import type { RunEvent, RunRequest } from '../../coordinator/runs/events.ts'
import { Progress } from '../../coordinator/runs/progress.ts'
import type { Workers } from '../../coordinator/runs/workers.ts'
import { asRunId } from '../../shared/ids.ts'
import { realClock } from '../../shared/link/real-clock.ts'
import { STRATEGIES, type Strategy } from '../../shared/plan.ts'
import type { Command } from '../../shared/protocol/control.ts'
import { createEngine } from '../../worker/engine/create-engine.ts'
import type { Engine } from '../../worker/engine/engine.ts'
import { equalWorkers, MemoryCluster, withDecodeShare } from '../support/memory-cluster.ts'
import { argmax, maxAbsDifference } from '../support/numbers.ts'
import { PlainRun } from '../support/plain-run.ts'
import { randomInt, seededRandom } from '../support/random.ts'
import { sentOut } from '../support/sent-out.ts'
import { createTinyModel, type TinyModel } from '../support/tiny-model.ts'

/** The decode node computes the end of the prompt itself, whatever share of it the plan says. */

const TOLERANCE = 1e-3
const PROMPT = 620
const ANSWER = 4
const DECODE_SHARES = [1, 2, 37, 300, PROMPT]

const never = (): AbortSignal => new AbortController().signal

const promptOf = (length: number): Int32Array => {
  const random = seededRandom(length)
  return Int32Array.from({ length }, () => randomInt(random, 64))
}

const requestOf = (length: number, of: Partial<RunRequest> = {}): RunRequest => ({
  promptTokens: promptOf(length),
  maxTokens: ANSWER,
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
  stopTokens: [],
  wantLogits: true,
  ...of,
})

async function all(events: AsyncIterable<RunEvent>): Promise<RunEvent[]> {
  const list: RunEvent[] = []
  for await (const event of events) list.push(event)
  return list
}

const tokensOf = (events: readonly RunEvent[]): number[] =>
  events.flatMap((event) => (event.kind === 'token' ? [event.token] : []))

/** What the reference engine says of a prompt, in one piece and alone. */
async function denseAnswer(engine: Engine, length: number): Promise<{ logits: Float32Array; tokens: number[] }> {
  const run = new PlainRun(engine, length + ANSWER, { chunkTokens: length, blockTokens: length + ANSWER })
  const first = await run.feed([...promptOf(length)])
  const tokens = [argmax(first)]
  while (tokens.length < ANSWER) tokens.push(argmax(await run.feed([tokens.at(-1)!])))
  return { logits: first, tokens }
}

describe('a prompt whose end the decode node computes', () => {
  let model: TinyModel
  let engine: Engine
  let dense: Awaited<ReturnType<typeof denseAnswer>>
  before(async () => {
    model = await createTinyModel({ seed: 11, layers: 3 })
    engine = await createEngine('reference', model.folder, { threads: 1 })
    dense = await denseAnswer(engine, PROMPT)
  })
  after(() => model.remove())

  const within = async (
    of: Parameters<typeof MemoryCluster.start>[1],
    body: (cluster: MemoryCluster) => Promise<void>,
  ) => {
    const cluster = await MemoryCluster.start(model.folder, of)
    try {
      await body(cluster)
    } finally {
      await cluster.stop()
    }
  }

  for (const share of DECODE_SHARES)
    it(`has the dense answer when that are its last ${share} tokens, by every strategy`, () =>
      within({ workers: equalWorkers(3), replan: (plan) => withDecodeShare(plan, share) }, async (cluster) => {
        for (const strategy of STRATEGIES) {
          const events = await all(cluster.runs.run(requestOf(PROMPT, { strategy }), never()))
          const logits = events.find((event) => event.kind === 'logits')!.logits
          const off = maxAbsDifference(logits, dense.logits)
          assert.ok(off < TOLERANCE, `${strategy}: ${off}`)
          assert.deepEqual(tokensOf(events), dense.tokens, strategy)

          const finished = events.at(-1)!
          assert.ok(finished.kind === 'finished')
          const own = finished.report.workers.find(({ role }) => role === 'decode')!
          assert.ok(own.computeSeconds > 0 && own.waitSeconds >= 0)
          assert.ok(own.computeSeconds + own.waitSeconds <= finished.report.ttftSeconds + finished.report.decodeSeconds)
          if (share === PROMPT) assert.equal(finished.report.workers.length, 1)
          const progress = events.flatMap((event) => (event.kind === 'progress' ? [event.processed] : []))
          assert.equal(progress.at(-1), PROMPT, 'progress reaches the end of the prompt')
          assert.deepEqual(
            progress,
            progress.toSorted((a, b) => a - b),
          )
        }
      }))

  it('is cancelled at once while the decode node computes or waits, and leaves nothing behind', () =>
    within({ workers: equalWorkers(2), replan: (plan) => withDecodeShare(plan, 300) }, async (cluster) => {
      for (const at of [1, 3, 5]) {
        const controller = new AbortController()
        let seen = 0
        const run = (async () => {
          for await (const event of cluster.runs.run(requestOf(PROMPT), controller.signal))
            if (event.kind === 'progress' && ++seen === at) controller.abort()
        })()
        await assert.rejects(run)
        await cluster.until(() => [...cluster.workers.values()].every(({ agent }) => agent.running === 0))
      }
      assert.deepEqual(tokensOf(await all(cluster.runs.run(requestOf(PROMPT), never()))), dense.tokens)
    }))

  for (const share of [1, 37])
    it(`has the dense answer while others are computed beside it, with ${share} at the decode node`, () =>
      within({ workers: equalWorkers(2), replan: (plan) => withDecodeShare(plan, share) }, async (cluster) => {
        const asks: { length: number; strategy: Strategy }[] = [
          { length: 200, strategy: 'ring' },
          { length: 90, strategy: 'chain' },
          { length: 61, strategy: 'solo' },
          { length: 150, strategy: 'ring' },
          { length: 1, strategy: 'solo' },
        ]
        const answers = await Promise.all(
          asks.map(({ length, strategy }) => all(cluster.runs.run(requestOf(length, { strategy }), never()))),
        )
        for (const [i, { length }] of asks.entries())
          assert.deepEqual(tokensOf(answers[i]!), (await denseAnswer(engine, length)).tokens, `${length} tokens`)
      }))

  it('is answered though two workers of a ring get two runs in opposite orders', () =>
    within({ workers: equalWorkers(2) }, async (cluster) => {
      const lengths = [330, 201]
      const crossed = crossing(cluster.registry, 'w2', lengths.length)
      const progress = new Progress(realClock)
      const tokens = await Promise.all(
        lengths.map(async (length, i) => {
          const request = requestOf(length)
          const plan = withDecodeShare(cluster.runs.plan(length, { strategy: 'ring', workers: 2 }).chosen, 20)
          const id = `ring-${i}`
          const watch = progress.watch(asRunId(id), 60)
          const { layers } = engine.shape
          const { workers } = crossed
          const sampled: number[] = []
          for await (const { event } of sentOut({ id, plan, request, layers, workers, clock: realClock, watch }))
            if (event.kind === 'token_sampled') sampled.push(event.token)
          return sampled
        }),
      )
      assert.deepEqual(crossed.order, ['ring-1', 'ring-0'])
      for (const [i, length] of lengths.entries())
        assert.deepEqual(tokens[i], (await denseAnswer(engine, length)).tokens, `${length} tokens`)
    }))
})

/** Holds back what is sent to `worker` until all runs have assigned it its part, then sends these in reverse. */
function crossing(to: Workers, worker: string, runs: number): { workers: Workers; order: string[] } {
  const held: { command: Command; payload: Uint8Array | undefined }[] = []
  const order: string[] = []
  const workers: Workers = {
    urlOf: (id) => to.urlOf(id),
    ticket: (of) => to.ticket(of),
    epochOf: (id) => to.epochOf(id),
    has: (id) => to.has(id),
    follow: (run, follower) => to.follow(run, follower),
    send: (id, command, payload) => {
      if (id !== worker || command.kind !== 'prefill') {
        to.send(id, command, payload)
        return
      }
      held.push({ command, payload })
      if (held.length < runs) return
      for (const late of held.toReversed()) {
        to.send(id, late.command, late.payload)
        order.push(late.command.kind === 'prefill' ? late.command.run : '')
      }
    },
  }
  return { workers, order }
}
