import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { decodeTraces, encodeTrace, MAX_SPANS, SPAN_KINDS, type TraceSpan } from '../../shared/trace.ts'

/** Whole microseconds after an origin, as a lane has them: in order, never overlapping. */
const lanes = fc
  .tuple(
    fc.integer({ min: 0, max: 2 ** 40 }),
    fc.array(
      fc.record({
        kind: fc.constantFrom(...SPAN_KINDS),
        layer: fc.nat(0xffff),
        peer: fc.option(fc.constantFrom('worker-1', 'hôte', '漢字', 'x'.repeat(64)), { nil: undefined }),
        pause: fc.nat(1e6),
        length: fc.nat(1e6),
      }),
      { maxLength: 60 },
    ),
  )
  .map(([origin, list]) => {
    let at = origin
    return list.map(({ kind, layer, peer, pause, length }): TraceSpan => {
      const start = at + pause
      at = start + length
      return { kind, layer, ...(peer !== undefined && { peer }), start: start / 1e6, end: at / 1e6 }
    })
  })

const close = (a: number, b: number): boolean => Math.abs(a - b) < 1e-6

function assertSame(found: readonly TraceSpan[], expected: readonly TraceSpan[]): void {
  assert.equal(found.length, expected.length)
  for (const [i, span] of expected.entries()) {
    const { start, end, ...rest } = found[i]!
    assert.deepEqual({ ...rest, start: span.start, end: span.end }, span)
    assert.ok(close(start, span.start) && close(end, span.end), `${start}-${end} for ${span.start}-${span.end}`)
  }
}

describe('a trace', () => {
  it('comes back as it was, to the microsecond, and what did not overlap does not', () => {
    fc.assert(
      fc.property(lanes, (spans) => {
        const found = decodeTraces(encodeTrace(spans))
        assertSame(found, spans)
        for (const [i, { start }] of found.entries()) assert.ok(i === 0 || start >= found[i - 1]!.end)
      }),
      { seed: 11, numRuns: 300 },
    )
  })

  it('may be followed by others in the same payload', () => {
    fc.assert(
      fc.property(lanes, lanes, (a, b) =>
        assertSame(decodeTraces(Buffer.concat([encodeTrace(a), encodeTrace(b)])), [...a, ...b]),
      ),
      { seed: 12, numRuns: 50 },
    )
  })

  it('of many hours keeps its proportions', () => {
    const day: TraceSpan = { kind: 'attend', layer: 3, start: 5, end: 5 + 86_400 }
    const [found] = decodeTraces(encodeTrace([day]))
    assert.ok(Math.abs(found!.end - found!.start - 86_400) < 1e-3)
  })

  it('of nothing is nothing', () => {
    assert.deepEqual(decodeTraces(new Uint8Array()), [])
    assert.deepEqual(decodeTraces(encodeTrace([])), [])
  })

  it('of a full recorder stays below 128 KiB', () => {
    const span: TraceSpan = { kind: 'send', layer: 1, peer: 'w', start: 1, end: 2 }
    const bytes = encodeTrace(Array.from({ length: MAX_SPANS }, () => span))
    assert.ok(bytes.length < 2 ** 17)
    assert.equal(decodeTraces(bytes).length, MAX_SPANS)
  })
})

describe('bytes that are no trace', () => {
  const refused = (bytes: Uint8Array) => assert.throws(() => decodeTraces(bytes), { code: 'frame_bad_schema' })
  const good = (): Uint8Array<ArrayBuffer> =>
    encodeTrace([{ kind: 'send', layer: 1, peer: 'worker-1', start: 1, end: 2 }])
  const changed = (change: (view: DataView) => void): Uint8Array => {
    const bytes = good()
    change(new DataView(bytes.buffer))
    return bytes
  }

  it('are refused by code, wherever they are cut off', () => {
    for (let length = 1; length < good().length; length++) refused(good().subarray(0, length))
  })

  it('are refused when their numbers make no sense', () => {
    refused(changed((view) => view.setUint16(0, 9, true)))
    refused(changed((view) => view.setUint16(2, 0xffff, true)))
    refused(changed((view) => view.setUint32(4, 0xffffffff, true)))
    refused(changed((view) => view.setUint32(4, MAX_SPANS + 1, true)))
    refused(changed((view) => view.setFloat64(8, Number.NaN, true)))
    refused(changed((view) => view.setFloat64(16, 0, true)))
    refused(changed((view) => view.setUint8(view.byteLength - 12, SPAN_KINDS.length)))
    refused(changed((view) => view.setUint32(view.byteLength - 8, 0xffffffff, true)))
    refused(Buffer.concat(Array.from({ length: 9 }, good)))
  })

  it('never throw anything else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (noise) => {
        const bytes = Buffer.concat([good().subarray(0, 2), noise])
        try {
          decodeTraces(bytes)
        } catch (thrown) {
          assert.equal((thrown as { code?: string }).code, 'frame_bad_schema')
        }
      }),
      { seed: 13, numRuns: 500 },
    )
  })
})
