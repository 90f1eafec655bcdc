import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { FrameReader } from '../../../shared/link/frame-reader.ts'

const LIMIT = 100_000

/** A frame as RFC 6455 has it. */
function wire(first: number, length: number, masked = 0): Uint8Array {
  const head =
    length < 126
      ? [first, masked | length]
      : length < 65_536
        ? [first, masked | 126, length >> 8, length & 0xff]
        : [first, masked | 127, 0, 0, 0, 0, ...new Uint8Array(Uint32Array.of(length).buffer).reverse()]
  return Buffer.concat([Uint8Array.from(head), new Uint8Array(length).fill(length)])
}

const binary = (length: number) => wire(0x82, length)

/** What comes out when `bytes` come in, cut at these places. */
function read(bytes: Uint8Array, cuts: readonly number[] = []) {
  const frames: Uint8Array[] = []
  const passed: Uint8Array[] = []
  const reader = new FrameReader({
    maxFrameBytes: LIMIT,
    allocate: (length) => new Uint8Array(length),
    onFrame: (frame) => frames.push(frame),
    pass: (part) => passed.push(Uint8Array.from(part)),
  })
  const places = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]
  for (const [i, from] of places.slice(0, -1).entries()) {
    const chunk = Uint8Array.from(bytes.subarray(from, places[i + 1]))
    reader.read(chunk)
    chunk.fill(0xff)
  }
  return { lengths: frames.map(({ length }) => length), frames, passed: Buffer.concat(passed) }
}

describe('the reader of frames', () => {
  it('finds whole binary messages of any length, however the bytes are cut', () => {
    const lengths = fc.array(fc.oneof(fc.nat(130), fc.integer({ min: 65_530, max: 65_540 })), { maxLength: 6 })
    fc.assert(
      fc.property(lengths, fc.array(fc.nat(), { maxLength: 12 }), (sizes, cuts) => {
        const { lengths: found, frames, passed } = read(Buffer.concat(sizes.map(binary)), cuts)
        assert.deepEqual(found, sizes)
        for (const frame of frames) assert.ok(frame.every((byte) => byte === (frame.length & 0xff)))
        assert.equal(passed.length, 0)
      }),
      { seed: 3, numRuns: 200 },
    )
  })

  it('takes what was read to where it belongs as it is', () => {
    const frames: Uint8Array[] = []
    const reader = new FrameReader({
      maxFrameBytes: LIMIT,
      allocate: (length) => new Uint8Array(new SharedArrayBuffer(length + 100), 50, length),
      onFrame: (frame) => frames.push(frame),
      pass: () => assert.fail('nothing is to be passed on'),
    })
    const frame = binary(70_000)
    const bytes = Uint8Array.from(frame, (byte, i) => (i < frame.length - 70_000 ? byte : i % 251))
    assert.equal(reader.rest, undefined)
    reader.read(bytes.subarray(0, 30))
    for (let at = 30; at < bytes.length; ) {
      const part = reader.rest!.subarray(0, 30_000)
      part.set(bytes.subarray(at, at + part.length))
      at += part.length
      assert.equal(reader.read(part), at < bytes.length)
    }
    assert.equal(reader.rest, undefined)
    assert.deepEqual(Buffer.from(frames[0]!), Buffer.from(bytes.subarray(-70_000)))
  })

  it('says whether a frame has begun and is not whole', () => {
    const reader = new FrameReader({
      maxFrameBytes: LIMIT,
      allocate: (length) => new Uint8Array(length),
      onFrame: () => undefined,
      pass: () => undefined,
    })
    const frame = binary(1000)
    assert.equal(reader.read(frame.subarray(0, 10)), true)
    assert.equal(reader.read(frame.subarray(10, 900)), true)
    assert.equal(reader.read(frame.subarray(900)), false)
    assert.equal(reader.read(wire(0x89, 5).subarray(0, 4)), false)
  })

  it('passes control frames on and reads on behind them', () => {
    const ping = wire(0x89, 5)
    const close = wire(0x88, 125)
    const { lengths, passed } = read(Buffer.concat([binary(3), ping, binary(70_000), close]), [1, 4, 9, 40_000])
    assert.deepEqual(lengths, [3, 70_000])
    assert.deepEqual(passed, Buffer.concat([ping, close]))
  })

  for (const [what, odd] of [
    ['text', wire(0x81, 4)],
    ['the first of several fragments', wire(0x02, 4)],
    ['a continuation', wire(0x80, 4)],
    ['a reserved bit', wire(0xc2, 4)],
    ['a masked message', wire(0x82, 4, 0x80)],
    ['a control frame of more than 125 bytes', wire(0x89, 126)],
    ['a message above the limit', binary(LIMIT + 1)],
  ] as const)
    it(`passes on everything from ${what} on`, () => {
      const tail = Buffer.concat([odd, binary(7)])
      const { lengths, passed } = read(Buffer.concat([binary(2), tail]), [3, 5, 6])
      assert.deepEqual(lengths, [2])
      assert.deepEqual(passed, tail)
    })
})
