import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { encode } from 'msgpack-lite'
import { MAX_DEPTH, MAX_ITEMS, scanHeader } from '../../../shared/protocol/scan.ts'
import { hex } from '../../support/raw-frame.ts'

const refuses = (bytes: Uint8Array | string, message: RegExp, code = 'frame_bad_header') =>
  assert.throws(() => scanHeader(typeof bytes === 'string' ? hex(bytes) : bytes), {
    name: 'HeadraceError',
    code,
    message,
  })

describe('the scan lets through', () => {
  it('every type of value that a header may have, in every size', () => {
    const values = [
      ...['00', '7f', 'e0', 'ff', 'c0', 'c2', 'c3'],
      ...['cc ff', 'cd ffff', 'ce ffffffff', 'd0 80', 'd1 8000', 'd2 80000000', 'ca 3f800000', 'cb 3ff0000000000000'],
      ...['cf 001fffffffffffff', 'd3 ffe0000000000001', 'd3 001fffffffffffff'],
      ...['a0', 'a3 616263', 'd9 03 616263', 'da 0003 616263', 'db 00000003 616263'],
      ...['90', '92 01 02', 'dc 0002 01 02', 'dd 00000002 01 02'],
      ...['80', '81 a161 01', 'de 0001 a161 01', 'df 00000001 a161 01'],
    ]
    for (const value of values) scanHeader(hex(value))
  })

  it('what the encoder writes', () => {
    scanHeader(encode({ a: [{ b: [1, -1, 1.5, 70_000, 2 ** 40] }, 'x'.repeat(70_000)], c: { d: null, e: true } }))
  })

  it(`${MAX_DEPTH} levels`, () => scanHeader(hex('81 a161 91 81 a162 90')))

  it(`${MAX_ITEMS} items`, () => scanHeader(arrayOf(MAX_ITEMS - 1)))

  it('a view into a larger buffer, and reads nothing around it', () => {
    const around = hex('ff 81 a161 01 ff')
    scanHeader(around.subarray(1, 5))
  })
})

describe('the scan refuses', () => {
  it('a fifth level, also when it is empty', () => {
    const deep = ['91 91 91 91 90', '91 91 91 91 80', '81a161 81a161 81a161 81a161 80', '81a161 91 81a161 91 80']
    for (const bytes of deep) refuses(bytes, /deeper than 4 levels/, 'frame_too_deep')
  })

  it('a hundred thousand levels without growing its own stack', () =>
    refuses(new Uint8Array(100_000).fill(0x91), /deeper/, 'frame_too_deep'))

  it('one item too many', () => refuses(arrayOf(MAX_ITEMS), /more than 10000 items/))

  it('lengths beyond its end, before it believes them', () => {
    for (const bytes of ['a1', 'd9 02 61', 'da ffff 61', 'db ffffffff 61']) refuses(bytes, /string is longer/)
    for (const bytes of ['91', 'dc 0002 01', 'dd ffffffff 01']) refuses(bytes, /more values in a array/)
    for (const bytes of ['81 a0', 'de 0001 a0', 'df 80000000 a0', 'df ffffffff a0']) refuses(bytes, /values in a map/)
  })

  it('every header that ends too soon', () => {
    const whole = encode({ kind: 'x', n: [1, 300, 70_000, 2 ** 40, -200], s: 'y'.repeat(40), t: 'z'.repeat(300) })
    for (let length = 0; length < whole.length; length++)
      refuses(whole.subarray(0, length), /cut short|longer than the header|more values/)
  })

  it('binary, extensions and the type that does not exist', () => {
    for (const type of [0xc1, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8]) {
      const bytes = new Uint8Array(32)
      bytes[0] = type
      refuses(bytes, /a value of type 0x/)
    }
  })

  it('keys that are not strings', () => {
    for (const key of ['01', 'c0', 'c3', '90', '80', 'ca 00000000']) refuses(`81 ${key} 01`, /key that is not a string/)
    refuses('82 a161 01 02 03', /key that is not a string/)
  })

  it('keys that name a prototype, however their length is written', () => {
    for (const name of ['__proto__', 'constructor', 'prototype']) {
      const text = Buffer.from(name).toString('hex')
      const n = name.length.toString(16).padStart(2, '0')
      const heads = [(0xa0 + name.length).toString(16), `d9 ${n}`, `da 00${n}`, `db 000000${n}`]
      for (const head of heads) {
        refuses(`81 ${head} ${text} 01`, /names a prototype/)
        refuses(`81 a161 91 82 a162 01 ${head} ${text} 80`, /names a prototype/)
      }
      scanHeader(hex(`81 a161 ${heads[0]} ${text}`))
    }
  })

  it('text that is not UTF-8, of which two readers make different things', () => {
    for (const text of [
      'a2 c328',
      'a1 ff',
      'a2 c0af',
      'a3 eda080',
      'd902 c328',
      'da0001 80',
      'db00000003 f09f98',
      '91 a2 61f0',
    ])
      refuses(text, /not UTF-8/)
  })

  it('keys outside ASCII, so that no overlong encoding hides a name', () => {
    refuses('81 ad c19f c19f 70726f746f c19f c19f 01', /not UTF-8/)
    refuses('81 a2 c3a9 01', /not ASCII/)
  })

  it('integers that are not safe', () => {
    for (const n of ['cf 0020000000000000', 'cf ffffffffffffffff', 'd3 ffe0000000000000', 'd3 8000000000000000'])
      refuses(n, /integer that is not safe/)
  })

  it('bytes after the end', () => {
    refuses('01 01', /bytes after its end/)
    refuses('81 a161 01 c0', /bytes after its end/)
  })
})

/** `n` children in one array: n + 1 items. */
function arrayOf(n: number): Uint8Array {
  const bytes = new Uint8Array(3 + n)
  bytes[0] = 0xdc
  new DataView(bytes.buffer).setUint16(1, n)
  return bytes
}
