import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { WorkerNews } from '../../../coordinator/runs/news.ts'
import { RunTracer, spansOf } from '../../../coordinator/trace/run-trace.ts'
import { encodeTrace, type TraceSpan } from '../../../shared/trace.ts'
import { ManualClock } from '../../support/manual-clock.ts'

const report = { tokens: 1, computeSeconds: 1, attendSeconds: 0, waitSeconds: 0, sendSeconds: 0, sent: [] }

const finished = (worker: string, spans: readonly TraceSpan[]): WorkerNews => ({
  worker,
  event: { kind: 'finished', run: 'r', report: { ...report, worker, role: 'prefill' } },
  payload: encodeTrace(spans),
})
const project = (start: number, end: number): TraceSpan => ({ kind: 'project', layer: 0, start, end })
const token = (index: number): WorkerNews => ({
  worker: 'd1',
  event: { kind: 'token_sampled', run: 'r', index, token: 7 },
  payload: new Uint8Array(),
})

describe('the tracer of a run', () => {
  it('puts workers whose clocks differ by days on one', () => {
    const clock = new ManualClock()
    clock.advance(100)
    const skews = new Map([
      ['w1', -86_400.5],
      ['w2', 1e6],
    ])
    const tracer = new RunTracer(clock, 100, (worker) => ({
      offsetSeconds: skews.get(worker)!,
      errorSeconds: 0.001,
    }))
    clock.advance(9)
    for (const [worker, skew] of skews) tracer.note(finished(worker, [project(102 + skew, 105 + skew)]))
    for (const worker of tracer.trace().workers) {
      const [{ start, end }] = spansOf(worker) as [TraceSpan]
      assert.ok(Math.abs(start - 2) < 2e-6 && Math.abs(end - 5) < 2e-6)
      assert.equal(worker.errorSeconds, 0.001)
    }
  })

  it('takes the moment a trace comes for its end, where no ping has told more', () => {
    const clock = new ManualClock()
    const tracer = new RunTracer(clock, 0, () => undefined)
    clock.advance(10)
    tracer.note(finished('w1', [project(5000, 5003)]))
    const [worker] = tracer.trace().workers
    const [span] = spansOf(worker!)
    assert.deepEqual([span?.start, span?.end], [7, 10])
    assert.equal(worker!.errorSeconds, undefined)
  })

  it('notes the first token only', () => {
    const clock = new ManualClock()
    const tracer = new RunTracer(clock, 0, () => undefined)
    for (const index of [0, 1, 2]) {
      clock.advance(1)
      tracer.note(token(index))
    }
    assert.deepEqual(tracer.trace().milestones, [
      { name: 'queued', seconds: 0 },
      { name: 'first_token', seconds: 1 },
    ])
  })

  it('takes no trace for an empty one, and nonsense for an error', () => {
    const tracer = new RunTracer(new ManualClock(), 0, () => undefined)
    const news = finished('w1', [])
    tracer.note({ ...news, payload: new Uint8Array() })
    assert.deepEqual(spansOf(tracer.trace().workers[0]!), [])
    assert.throws(() => tracer.note({ ...news, payload: Uint8Array.of(1, 2, 3) }), { code: 'frame_bad_schema' })
  })
})
