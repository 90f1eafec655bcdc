import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { SPAN_KINDS, type TraceSpan } from '../../../shared/trace.ts'
import { TraceRecorder } from '../../../worker/trace/recorder.ts'
import { ManualClock } from '../../support/manual-clock.ts'

const recorder = (capacity?: number) => new TraceRecorder(new ManualClock(), capacity)
const short = ({ kind, layer, start, end }: TraceSpan) => [kind, layer, start, end]

const sum = (spans: readonly TraceSpan[], kind: string): number =>
  spans.filter((span) => span.kind === kind).reduce((total, { start, end }) => total + end - start, 0)

describe('a recorder', () => {
  it('joins neighbours of the same kind and layer across a turn of the event loop, and no others', () => {
    const trace = recorder()
    trace.record('attend', 0, 1, 2)
    trace.record('attend', 0, 2.00004, 3)
    trace.record('attend', 0, 3.001, 4)
    trace.record('attend', 1, 4, 5)
    trace.record('mix', 1, 5, 6)
    trace.record('attend', 1, 6, 7)
    assert.deepEqual(trace.spans().map(short), [
      ['attend', 0, 1, 3],
      ['attend', 0, 3.001, 4],
      ['attend', 1, 4, 5],
      ['mix', 1, 5, 6],
      ['attend', 1, 6, 7],
    ])
    assert.equal(trace.seconds('mix'), 1)
    assert.ok(Math.abs(trace.seconds('attend') - (1 + 0.99996 + 0.999 + 1 + 1)) < 1e-9)
  })

  it('keeps peers and directions apart, and a layer of each is one span from the first frame to the last', () => {
    const trace = recorder()
    for (const at of [1, 5, 9]) {
      trace.record('send', 0, at, at + 1, 'a')
      trace.record('send', 0, at + 1, at + 2, 'b')
      trace.record('receive', 0, at, at, 'a')
    }
    assert.deepEqual(
      trace.spans().map((span) => [span.peer, ...short(span)]),
      [
        ['a', 'send', 0, 1, 10],
        ['b', 'send', 0, 2, 11],
        ['a', 'receive', 0, 1, 9],
      ],
    )
    assert.equal(trace.seconds('send'), 6)
  })

  it('times work, and overlooks waits that were none', async () => {
    const clock = new ManualClock()
    const trace = new TraceRecorder(clock)
    const result = await trace.timed('project', 2, async () => {
      clock.advance(3)
      return 'kv'
    })
    assert.equal(result, 'kv')
    await trace.timed('wait', 2, async () => clock.advance(1e-6))
    await trace.timed('wait', 2, async () => clock.advance(0.5))
    await assert.rejects(trace.timed('mix', 2, () => Promise.reject(new Error('no'))))
    assert.deepEqual(trace.spans().map(short), [
      ['project', 2, 0, 3],
      ['wait', 2, 3.000001, 3.500001],
    ])
  })

  it('of an answer records tokens, at most 64, instead of their layers', async () => {
    const clock = new ManualClock()
    const trace = new TraceRecorder(clock)
    const step = () => trace.timed('attend', 0, async () => clock.advance(1))
    for (let index = 0; index < 100; index++) {
      await step()
      trace.token(index)
    }
    const spans = trace.spans()
    assert.deepEqual(short(spans[0]!), ['attend', 0, 0, 1])
    assert.deepEqual(short(spans[1]!), ['decode', 1, 1, 2])
    assert.equal(spans.length, 64)
    assert.equal(trace.seconds('attend'), 100)
  })

  it('sums up per layer when it is full: the bound holds, sums stay, nothing overlaps or leaves the run', () => {
    const piece = fc.record({ kind: fc.nat(3), pause: fc.nat(3), length: fc.integer({ min: 1, max: 9 }) })
    fc.assert(
      fc.property(fc.array(fc.array(piece, { maxLength: 60 }), { minLength: 1, maxLength: 5 }), (layers) => {
        const trace = recorder(24)
        let at = 0
        for (const [layer, pieces] of layers.entries())
          for (const { kind, pause, length } of pieces) {
            trace.record(SPAN_KINDS[kind]!, layer, at + pause, at + pause + length)
            at += pause + length
          }
        const spans = trace.spans()
        assert.ok(spans.length <= 24)
        for (const [i, { start, end }] of spans.entries())
          assert.ok(start >= (spans[i - 1]?.end ?? 0) && end >= start && end <= at, JSON.stringify(spans))
        for (const kind of SPAN_KINDS) assert.equal(sum(spans, kind), trace.seconds(kind))
        const layersOf = (of: readonly { layer: number }[]) => [...new Set(of.map(({ layer }) => layer))]
        assert.deepEqual(
          layersOf(spans),
          layers.flatMap((pieces, layer) => (pieces.length > 0 ? [layer] : [])),
        )
      }),
      { seed: 21, numRuns: 300 },
    )
  })

  it('goes on counting when even the sums have no room', () => {
    const trace = recorder(4)
    for (let layer = 0; layer < 10; layer++) trace.record('mix', layer, layer, layer + 1)
    assert.equal(trace.spans().length, 4)
    assert.equal(trace.seconds('mix'), 10)
  })
})
