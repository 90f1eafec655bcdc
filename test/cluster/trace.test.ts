import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import type { RunReport } from '../../coordinator/runs/events.ts'
import { chromeTrace } from '../../coordinator/trace/chrome.ts'
import { spansOf } from '../../coordinator/trace/run-trace.ts'
import type { Strategy } from '../../shared/plan.ts'
import type { TraceSpan } from '../../shared/trace.ts'
import { checkedTracks } from '../support/chrome-trace.ts'
import { equalWorkers, MemoryCluster } from '../support/memory-cluster.ts'
import { createTinyModel, type TinyModel } from '../support/tiny-model.ts'

/** What workers record of a run, all the way to the coordinator. Everything is in one process, so on one clock. */

const LAYERS = 4
const ROUNDING = 2e-6

const isCompute = ({ peer, kind }: TraceSpan) => peer === undefined && kind !== 'decode'
const layersOf = (spans: readonly TraceSpan[], kind: string, peer?: string) =>
  [...new Set(spans.filter((span) => span.kind === kind && span.peer === peer).map(({ layer }) => layer))].sort()
const sum = (spans: readonly TraceSpan[]) => spans.reduce((total, { start, end }) => total + end - start, 0)
const upTo = (layers: number) => Array.from({ length: layers }, (_, layer) => layer)

describe('the trace of a run', () => {
  let model: TinyModel
  let cluster: MemoryCluster
  before(async () => {
    model = await createTinyModel({ seed: 5, layers: LAYERS })
    cluster = await MemoryCluster.start(model.folder, { workers: equalWorkers(2) })
  })
  after(async () => {
    await cluster.stop()
    await model.remove()
  })

  async function reportOf(strategy: Strategy): Promise<{ report: RunReport; spans: Map<string, TraceSpan[]> }> {
    const request = {
      promptTokens: Int32Array.from({ length: 300 }, (_, i) => (i * 7) % 64),
      maxTokens: 4,
      sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
      stopTokens: [],
      strategy,
      ...(strategy !== 'solo' && { workers: 2 }),
    }
    for await (const event of cluster.runs.run(request, new AbortController().signal))
      if (event.kind === 'finished') {
        const { workers } = event.report.trace
        return { report: event.report, spans: new Map(workers.map((of) => [of.worker, spansOf(of)])) }
      }
    throw new Error('the run has no end')
  }

  it('of a chain of two has every layer of every worker, and every transfer at both ends', async () => {
    const { spans } = await reportOf('chain')
    assert.deepEqual([...spans.keys()].sort(), ['d1', 'w1', 'w2'])
    for (const worker of ['w1', 'w2']) {
      const own = spans.get(worker)!
      assert.deepEqual(layersOf(own, 'project'), upTo(LAYERS))
      // the last layer is only projected
      assert.deepEqual(layersOf(own, 'attend'), upTo(LAYERS - 1))
      assert.deepEqual(layersOf(own, 'mix'), upTo(LAYERS - 1))
      assert.deepEqual(layersOf(own, 'send', 'd1'), upTo(LAYERS))
      assert.deepEqual(layersOf(spans.get('d1')!, 'receive', worker), upTo(LAYERS))
    }
    assert.deepEqual(layersOf(spans.get('w1')!, 'send', 'w2'), upTo(LAYERS - 1))
    assert.deepEqual(layersOf(spans.get('w2')!, 'receive', 'w1'), upTo(LAYERS - 1))
    const decode = spans.get('d1')!
    for (const kind of ['project', 'attend', 'mix']) assert.deepEqual(layersOf(decode, kind), upTo(LAYERS))
    assert.deepEqual(layersOf(decode, 'decode'), [1, 2, 3])
    assert.ok(decode.some(({ kind }) => kind === 'wait'))
  })

  for (const strategy of ['solo', 'chain', 'ring'] as const)
    it(`of a ${strategy} accounts for each worker's time once, inside the run`, async () => {
      const { report, spans } = await reportOf(strategy)
      const finished = report.trace.milestones.at(-1)!.seconds
      for (const { worker, computeSeconds, attendSeconds, waitSeconds } of report.workers) {
        const compute = spans.get(worker)!.filter(isCompute)
        for (const [i, { start, end }] of compute.entries()) {
          const before = compute[i - 1]?.end ?? 0
          assert.ok(
            start >= before - ROUNDING && end >= start && end <= finished,
            `${worker}: ${start} after ${before}`,
          )
        }
        assert.ok(sum(compute) <= computeSeconds + waitSeconds + ROUNDING * compute.length)
        assert.ok(attendSeconds > 0 && attendSeconds <= computeSeconds)
      }
      checkedTracks(chromeTrace(report))
      assert.notEqual(report.bottleneck, '')
    })

  it('tells the coordinator’s steps in order', async () => {
    const { report } = await reportOf('chain')
    assert.deepEqual(
      report.trace.milestones.map(({ name }) => name),
      ['queued', 'planned', 'assigned', 'assembled', 'first_token', 'finished'],
    )
    const times = report.trace.milestones.map(({ seconds }) => seconds)
    assert.deepEqual(
      [...times].sort((a, b) => a - b),
      times,
    )
  })
})
