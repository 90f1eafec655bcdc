import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { crc32 } from 'node:zlib'
import { HeadraceError } from '../../../shared/errors.ts'
import { decodeFrame, encodeFrame, MAX_HEADER_BYTES } from '../../../shared/protocol/frame.ts'
import { hex, rawFrame, sumOf, toHex } from '../../support/raw-frame.ts'

const LIMIT = 2 ** 20
const HEADER = hex('81 a161 01')
const PAYLOAD = Uint8Array.from({ length: 100 }, (_, i) => i)

const refuses = (bytes: Uint8Array, code: string, limit = LIMIT) =>
  assert.throws(() => decodeFrame(bytes, limit), { name: 'HeadraceError', code })

describe('a frame', () => {
  it('is prelude, header, zeros and payload', () => {
    const frame = encodeFrame({ a: 1 }, Uint8Array.of(0xaa, 0xbb))
    const sum = crc32(Buffer.concat([frame.subarray(0, 16), frame.subarray(20)]))
    const prelude = '48445243 0200 0100 04000000 02000000'
    const summed = Buffer.alloc(4)
    summed.writeUInt32LE(sum)
    const rest = `81a16101 ${'00'.repeat(40)} aabb`
    assert.equal(toHex(frame), `${prelude} ${toHex(summed)} ${rest}`.replaceAll(' ', ''))
    assert.deepEqual(frame, rawFrame({ header: HEADER, payload: Uint8Array.of(0xaa, 0xbb) }))
  })

  it('comes back as it was', () => {
    const header = { a: 1, b: ['x', -1.5, 2 ** 40, true, null], c: { d: 'naïve 漢字 😀' } }
    const { header: again, payload } = decodeFrame(encodeFrame(header, PAYLOAD), LIMIT)
    assert.deepEqual(again, header)
    assert.deepEqual(payload, PAYLOAD)
  })

  it('has its payload on a multiple of 64 bytes, whatever the length of its header', () => {
    for (let n = 0; n < 200; n++) {
      const { payload } = decodeFrame(encodeFrame({ text: 'x'.repeat(n) }, PAYLOAD), LIMIT)
      assert.equal(payload.byteOffset % 64, 0)
      assert.deepEqual(payload, PAYLOAD)
    }
  })

  it('gives its payload as a view, not as a copy', () => {
    const frame = encodeFrame({ a: 1 }, PAYLOAD)
    assert.equal(decodeFrame(frame, LIMIT).payload.buffer, frame.buffer)
  })

  it('is read from any offset of a larger buffer', () => {
    const frame = encodeFrame({ a: 1, big: 2 ** 40, half: 0.5 }, PAYLOAD)
    for (let offset = 0; offset < 9; offset++) {
      const larger = new Uint8Array(frame.length + 32).fill(0xff)
      larger.set(frame, offset)
      const { header, payload } = decodeFrame(larger.subarray(offset, offset + frame.length), LIMIT)
      assert.deepEqual(header, { a: 1, big: 2 ** 40, half: 0.5 })
      assert.deepEqual(payload, PAYLOAD)
    }
  })

  it('leaves a payload to whoever uses it if its header has a checksum of that', () => {
    const frame = encodeFrame({ crc32: 7 }, PAYLOAD)
    frame[frame.length - 1]! ^= 1
    assert.equal(decodeFrame(frame, LIMIT).payload.at(-1), PAYLOAD.at(-1)! ^ 1)
    frame[21]! ^= 1
    refuses(frame, 'frame_damaged')
  })

  it('takes a payload that is a view', () => {
    const larger = new Uint8Array(200).fill(5)
    larger.set(PAYLOAD, 33)
    assert.deepEqual(decodeFrame(encodeFrame({}, larger.subarray(33, 133)), LIMIT).payload, PAYLOAD)
  })

  it('leaves absent fields out', () => {
    const { header } = decodeFrame(
      encodeFrame({ a: undefined, b: [{ c: undefined, d: 1 }], e: { f: undefined } }),
      LIMIT,
    )
    assert.deepEqual(header, { b: [{ d: 1 }], e: {} })
  })

  it('has objects with the usual prototype', () => {
    const { header } = decodeFrame(encodeFrame({ a: { b: 1 } }), LIMIT)
    assert.equal(Object.getPrototypeOf(header), Object.prototype)
    assert.equal(Object.getPrototypeOf((header as { a: object }).a), Object.prototype)
  })

  it('may be exactly as long as the limit', () => {
    const frame = encodeFrame({ a: 1 }, PAYLOAD)
    decodeFrame(frame, frame.length)
    refuses(frame, 'frame_oversized', frame.length - 1)
  })

  it('may have a header of 64 KiB and no more', () => {
    const header = { text: 'x'.repeat(MAX_HEADER_BYTES - 9) }
    assert.deepEqual(decodeFrame(encodeFrame(header), LIMIT).header, header)
    assert.throws(() => encodeFrame({ text: 'x'.repeat(MAX_HEADER_BYTES - 8) }), { code: 'frame_oversized' })
  })
})

describe('a frame is refused', () => {
  it('at every length short of its own', () => {
    const frame = encodeFrame({ a: 1 }, PAYLOAD)
    for (let length = 0; length < frame.length; length++) refuses(frame.subarray(0, length), 'frame_truncated')
  })

  it('when bytes follow it', () => {
    const frame = encodeFrame({ a: 1 }, PAYLOAD)
    const longer = new Uint8Array(frame.length + 1)
    longer.set(frame)
    refuses(longer, 'frame_bad_header')
  })

  it('for another magic', () => refuses(rawFrame({ header: HEADER, magic: 'HDRD' }), 'frame_bad_magic'))

  it('for another version', () => {
    for (const version of [0, 1, 3, 256, 0xffff]) refuses(rawFrame({ header: HEADER, version }), 'frame_bad_version')
  })

  it('for a checksum of who knows what', () => {
    for (const covers of [2, 256, 0xffff]) refuses(rawFrame({ header: HEADER, covers }), 'frame_bad_header')
  })

  it('for any bit that is another', () => {
    const frame = encodeFrame({ a: 1 }, PAYLOAD)
    for (let bit = 0; bit < frame.length * 8; bit++) {
      const damaged = frame.slice()
      damaged[bit >> 3]! ^= 1 << (bit & 7)
      assert.throws(() => decodeFrame(damaged, LIMIT), HeadraceError, `bit ${bit}`)
    }
  })

  it('for a payload that nobody sums', () =>
    refuses(rawFrame({ header: HEADER, payload: PAYLOAD, covers: 0 }), 'frame_bad_header'))

  it('for padding that is not zero', () => {
    refuses(rawFrame({ header: HEADER, padding: 1 }), 'frame_bad_header')
    const last = rawFrame({ header: HEADER, payload: PAYLOAD })
    last[63] = 1
    new DataView(last.buffer).setUint32(16, sumOf(last), true)
    refuses(last, 'frame_bad_header')
  })

  it('for lengths above the limits, which are never allocated', () => {
    refuses(rawFrame({ header: HEADER, headerLength: MAX_HEADER_BYTES + 1 }), 'frame_oversized')
    refuses(rawFrame({ header: HEADER, headerLength: 0xffffffff }), 'frame_oversized')
    refuses(rawFrame({ header: HEADER, payloadLength: LIMIT }), 'frame_oversized')
    refuses(rawFrame({ header: HEADER, payloadLength: 0xffffffff }), 'frame_oversized')
    refuses(rawFrame({ header: HEADER, payloadLength: LIMIT / 2 }), 'frame_truncated')
  })

  it('for a header length that cuts the header or swallows padding', () => {
    refuses(rawFrame({ header: HEADER, headerLength: 3 }), 'frame_bad_header')
    refuses(rawFrame({ header: HEADER, headerLength: 5 }), 'frame_bad_header')
    refuses(rawFrame({ header: new Uint8Array(0) }), 'frame_bad_header')
  })

  it('for a header that the scan refuses', () => {
    refuses(rawFrame({ header: hex('91 91 91 91 90') }), 'frame_too_deep')
    refuses(rawFrame({ header: hex('81 a9 5f5f70726f746f5f5f 80') }), 'frame_bad_header')
  })
})
