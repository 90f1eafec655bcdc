import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { chromeTrace } from '../../../coordinator/trace/chrome.ts'
import { checkedTracks } from '../../support/chrome-trace.ts'
import { tracedReport } from '../../support/sample-trace.ts'

describe('a run for Perfetto', () => {
  const trace = chromeTrace(tracedReport())
  const tracks = checkedTracks(trace)

  it('has a process for each worker, in the order of the plan, with a track for each thing it does', () => {
    assert.deepEqual(
      [...tracks.keys()],
      [
        'coordinator/run',
        'w1/compute',
        'w1/send to w2',
        'w1/send to d1',
        'w2/compute',
        'w2/receive from w1',
        'w2/send to d1',
        'd1/compute',
        'd1/receive from w1',
        'd1/receive from w2',
      ],
    )
    const pids = trace.traceEvents.filter(({ name }) => name === 'process_name').map(({ pid }) => pid)
    assert.deepEqual(pids, [1, 2, 3, 4])
  })

  it('puts the spans of all clocks on one, from the arrival of the request', () => {
    const [wait] = tracks.get('w2/compute')!.filter(({ name }) => name === 'wait')
    assert.deepEqual(wait, {
      ph: 'X',
      name: 'wait',
      cat: 'run',
      pid: 3,
      tid: 1,
      ts: 900_000,
      dur: 600_000,
      args: { layer: 0 },
    })
    assert.deepEqual(
      tracks
        .get('d1/compute')!
        .filter(({ name }) => name === 'decode')
        .map(({ ts, args }) => [ts, args]),
      [
        [2_500_000, { token: 1 }],
        [2_750_000, { token: 2 }],
      ],
    )
  })

  it('says how far off each clock may be, or that nobody knows', () => {
    const labels = (of: typeof trace) =>
      of.traceEvents.filter(({ name }) => name === 'process_labels').map(({ args }) => args?.['labels'])
    assert.deepEqual(labels(trace), Array(3).fill('clock ±0.500 ms'))
    const report = tracedReport()
    const workers = report.trace.workers.map(({ errorSeconds: _, ...worker }) => worker)
    assert.deepEqual(
      labels(chromeTrace({ ...report, trace: { ...report.trace, workers } })),
      Array(3).fill('clock unknown'),
    )
  })

  it('shows the coordinator’s own steps, and the plan', () => {
    const moments = trace.traceEvents.filter(({ ph }) => ph === 'i')
    assert.deepEqual(
      moments.map(({ name, ts }) => `${name} ${ts}`),
      ['queued 0', 'planned 500000', 'assigned 500000', 'assembled 2400000', 'first token 2500000', 'finished 3000000'],
    )
    assert.deepEqual(moments[1]?.args?.['workers'], ['w1: 50 tokens', 'w2: 50 tokens'])
    assert.deepEqual(
      tracks.get('coordinator/run')!.map(({ name, ts, dur }) => [name, ts, dur]),
      [
        ['queue', 0, 500_000],
        ['prefill', 500_000, 2_000_000],
        ['answer', 2_500_000, 500_000],
      ],
    )
  })
})
