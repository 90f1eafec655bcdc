import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { bottleneckOf, type RunFacts } from '../../../coordinator/trace/bottleneck.ts'
import type { WorkerReport } from '../../../shared/protocol/run-types.ts'
import type { SpanKind, TraceSpan } from '../../../shared/trace.ts'
import { chainPlan } from '../../support/scripted-runs.ts'

/** Runs of one layer (0) and a half, told as `kind start-end`, all times in seconds from the request's arrival. */

type Told = `${SpanKind} ${number}-${number}` | `${SpanKind} ${number}-${number} ${number}`

const spansOf = (told: readonly Told[]): TraceSpan[] =>
  told.map((text) => {
    const [kind, times, layer] = text.split(' ')
    const [start, end] = times!.split('-').map(Number)
    return { kind: kind as SpanKind, layer: Number(layer ?? 0), start: start!, end: end! }
  })

function reportOf(worker: string, spans: readonly TraceSpan[]): WorkerReport {
  const sum = (...kinds: SpanKind[]) =>
    spans.filter(({ kind }) => kinds.includes(kind)).reduce((total, { start, end }) => total + end - start, 0)
  const computeSeconds = sum('project', 'attend', 'mix')
  const times = { computeSeconds, attendSeconds: sum('attend'), waitSeconds: sum('wait'), sendSeconds: 0 }
  return { worker, role: worker === 'd1' ? 'decode' : 'prefill', tokens: 1, ...times, sent: [] }
}

function run(of: { ttft: number; queue?: number; plan?: RunFacts['plan'] }, told: Record<string, Told[]>): RunFacts {
  const spans = new Map(Object.entries(told).map(([worker, list]) => [worker, spansOf(list)]))
  return {
    plan: of.plan ?? chainPlan(100),
    queueSeconds: of.queue ?? 0,
    ttftSeconds: of.ttft,
    workers: [...spans].map(([worker, list]) => reportOf(worker, list)),
    spans,
  }
}

const ring = { ...chainPlan(100), strategy: 'ring' as const }

describe('the bottleneck', () => {
  it('is the arithmetic of the worker that ended last, if it mostly computed', () => {
    const facts = run(
      { ttft: 5 },
      { w1: ['project 0-1', 'attend 1-3'], w2: ['project 0-1', 'wait 1-1.5', 'attend 1.5-4.8'], d1: ['wait 0-4.9'] },
    )
    assert.equal(bottleneckOf(facts), "w2's arithmetic (4.30 s of 5.00 s)")
  })

  it('is the worker that it waited for, while that one computed', () => {
    const facts = run(
      { ttft: 5 },
      { w1: ['project 0-3.8', 'attend 3.8-4'], w2: ['project 0-1', 'wait 1-4', 'attend 4-5'], d1: ['wait 0-4.9'] },
    )
    assert.equal(bottleneckOf(facts), "w1's arithmetic (w2 waited 3.00 s of 5.00 s)")
  })

  it('is the link, if the other had made the layer long before', () => {
    const facts = run(
      { ttft: 5 },
      { w1: ['project 0-1', 'attend 1-2'], w2: ['project 0-1', 'wait 1-4', 'attend 4-5'], d1: ['wait 0-4.9'] },
    )
    assert.equal(bottleneckOf(facts), 'link w1 to w2 (w2 waited 3.00 s of 5.00 s)')
  })

  it('is the link even while the other computes on: it is ahead by some layers', () => {
    const w1: Told[] = ['project 0-1', 'project 1-2 1', 'project 2-3 2', 'project 3-4 3']
    const facts = run({ ttft: 5 }, { w1, w2: ['project 0-1', 'wait 1-4.5', 'attend 4.5-5'] })
    assert.equal(bottleneckOf(facts), 'link w1 to w2 (w2 waited 3.50 s of 5.00 s)')
  })

  it('is followed up the chain: to a link, and to arithmetic', () => {
    const three = chainPlan(100)
    const plan = { ...three, workers: [...three.workers, { ...three.workers[1]!, worker: 'w3' as never }] }
    const waited: Told[] = ['project 0-0.5', 'wait 0.5-4.5', 'attend 4.5-5']
    const slowLink = run(
      { ttft: 5, plan },
      { w1: ['project 0-0.5'], w2: ['project 0-0.5', 'wait 0.5-4.4', 'receive 4.4-4.4'], w3: waited },
    )
    assert.equal(bottleneckOf(slowLink), 'link w1 to w2 (w3 waited 4.00 s of 5.00 s)')
    const slowWorker = run(
      { ttft: 5, plan },
      { w1: ['project 0-4.2'], w2: ['wait 0-4.2', 'project 4.2-4.4'], w3: waited },
    )
    assert.equal(bottleneckOf(slowWorker), "w1's arithmetic (w3 waited 4.00 s of 5.00 s)")
  })

  it('is followed round a ring, and ends though all of it waits', () => {
    const w1: Told[] = ['project 0-1', 'wait 1-4', 'attend 4-4.4', 'receive 4-4']
    const w2: Told[] = ['project 0-1', 'wait 1-4.5', 'attend 4.5-5', 'receive 4.5-4.5']
    const facts = run({ ttft: 5, plan: ring }, { w1, w2 })
    assert.equal(bottleneckOf(facts), 'link w1 to w2 (w2 waited 3.50 s of 5.00 s)')
  })

  it('is the hand-off, if the decode node waited long after the workers had ended', () => {
    const facts = run({ ttft: 5 }, { w1: ['project 0-1'], w2: ['project 0-2'], d1: ['wait 0-4.9', 'project 4.9-5'] })
    assert.equal(bottleneckOf(facts), 'hand-off to d1 (2.90 s after the last worker ended)')
  })

  it('is the decode node, if that computed long after the workers had ended', () => {
    const facts = run({ ttft: 5 }, { w1: ['project 0-1'], w2: ['project 0-2'], d1: ['project 1-4', 'mix 4-5'] })
    assert.equal(bottleneckOf(facts), "the decode node's arithmetic (3.00 s after the last worker ended)")
  })

  it('is the decode node, if there were no workers', () => {
    const facts = run({ ttft: 0.5, plan: chainPlan(1) }, { d1: ['wait 0-0.1', 'project 0.1-0.5'] })
    assert.equal(bottleneckOf(facts), "the decode node's arithmetic (400 ms before the first token)")
  })

  it('is the queue, if that took longest', () => {
    const facts = run({ ttft: 5, queue: 3 }, { w1: ['project 3-4'], w2: ['project 3-4.5'], d1: ['wait 3-4.9'] })
    assert.equal(bottleneckOf(facts), 'queue (3.00 s before the run began)')
  })

  it('is told from the reports alone when there are no traces', () => {
    const facts = run({ ttft: 5 }, { w1: ['project 0-1'], w2: ['project 0-1', 'wait 1-5'], d1: [] })
    assert.equal(bottleneckOf({ ...facts, spans: new Map() }), 'KV on its way (w2 waited 4.00 s of 5.00 s)')
    assert.match(bottleneckOf({ ...facts, spans: new Map(), workers: [] }), /^hand-off to d1/)
  })

  it('of thousands of waits is found at once', () => {
    const many = (kinds: [SpanKind, SpanKind]): TraceSpan[] =>
      Array.from({ length: 8000 }, (_, i) => ({ kind: kinds[i % 2]!, layer: i >> 6, start: i, end: i + 1 }))
    const spans = new Map([
      ['w1', many(['wait', 'project'])],
      ['w2', many(['wait', 'attend'])],
    ])
    const workers = [...spans].map(([worker, list]) => ({ ...reportOf(worker, list), computeSeconds: 1 }))
    const facts = { plan: ring, queueSeconds: 0, ttftSeconds: 8000, workers, spans }
    assert.match(bottleneckOf(facts), /waited/)
  })
})
