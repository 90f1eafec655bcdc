import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { HeadraceError } from '../../../shared/errors.ts'
import type { KvHeader } from '../../../shared/protocol/peer.ts'
import { ExpectedBlocks } from '../../../worker/kv/expected-blocks.ts'

const fingerprint = 'c'.repeat(64)
const expected = () =>
  new ExpectedBlocks({
    makers: [
      {
        worker: 'a',
        epoch: 1,
        url: '',
        spans: [
          { start: 0, end: 7 },
          { start: 22, end: 25 },
        ],
        prefixWire: 'f16',
        handoffWire: 'f32',
      },
      { worker: 'b', epoch: 2, url: '', spans: [{ start: 7, end: 22 }], prefixWire: 'int8', handoffWire: 'f32' },
    ],
    blockTokens: 4,
    layers: 2,
    fingerprint,
    wireOf: ({ prefixWire }) => prefixWire,
    heads: { kvHeads: 3, headDim: 10 },
  })

const header = (of: Partial<KvHeader> = {}): KvHeader => ({
  kind: 'kv',
  run: 'r',
  fingerprint,
  origin: 'a',
  epoch: of.origin === 'b' ? 2 : 1,
  layer: 0,
  start: 0,
  count: 4,
  dtype: 'f16',
  crc32: 0,
  ...of,
})

describe('the blocks that a run expects', () => {
  it('are those of the plan, each once', () => {
    const blocks = expected()
    assert.equal(blocks.remaining, 2 * (2 + 1 + 4))
    for (const layer of [0, 1])
      for (const [origin, start, count] of [
        ['a', 0, 4],
        ['a', 4, 3],
        ['a', 22, 3],
        ['b', 7, 4],
        ['b', 11, 4],
        ['b', 15, 4],
        ['b', 19, 3],
      ] as const)
        blocks.take(header({ layer, origin, start, count }), count * 120)
    assert.equal(blocks.remaining, 0)
  })

  it('may be wider than planned, of the size that asks for', () => {
    const blocks = expected()
    const bytesPerToken = { f32: 240, f16: 120, int8: 84 }
    for (const [layer, dtype] of (['f32', 'f16'] as const).entries())
      blocks.take(header({ layer, dtype }), 4 * bytesPerToken[dtype])
    for (const [i, dtype] of (['f32', 'f16', 'int8'] as const).entries())
      blocks.take(header({ origin: 'b', start: 7 + 4 * i, dtype }), 4 * bytesPerToken[dtype])
    assert.equal(blocks.remaining, 14 - 5)
  })

  for (const { what, of, bytes = 4 * 120, code } of [
    { what: 'of another model', of: { fingerprint: 'd'.repeat(64) }, code: 'kv_identity' },
    { what: 'of a layer beyond the last', of: { layer: 2 }, code: 'kv_identity' },
    { what: 'that starts elsewhere', of: { start: 1 }, code: 'kv_identity' },
    { what: 'of another maker', of: { origin: 'b' }, code: 'kv_identity' },
    { what: 'of a time before its maker came back', of: { epoch: 0 }, code: 'stale_epoch' },
    { what: 'of another length', of: { count: 3 }, bytes: 3 * 120, code: 'kv_shape' },
    { what: 'whose payload is too long', of: {}, bytes: 481, code: 'kv_shape' },
    { what: 'of less precision', of: { dtype: 'int8' } as const, bytes: 4 * 84, code: 'kv_shape' },
    { what: 'whose payload has another precision', of: { dtype: 'f32' } as const, code: 'kv_shape' },
  ]) {
    it(`do not include one ${what}`, () => {
      const blocks = expected()
      assert.throws(
        () => blocks.take(header(of), bytes),
        (error) => error instanceof HeadraceError && error.code === code,
      )
      assert.equal(blocks.remaining, 14)
    })
  }

  it('do not include one that came before', () => {
    const blocks = expected()
    assert.equal(blocks.take(header(), 480)?.worker, 'a')
    assert.equal(blocks.take(header(), 480), undefined)
    assert.equal(blocks.remaining, 13)
  })
})
