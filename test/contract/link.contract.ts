import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { HeadraceError, isErrorCode } from '../../shared/errors.ts'
import type { Link, LinkLimits } from '../../shared/link/link.ts'

/** What every kind of link must do, seen from both of its ends. */

export interface LinkPair {
  readonly near: Link
  readonly far: Link
  release(): Promise<void>
}

/** `limits` are the near end's; the far end has the same unless told otherwise. */
export type MakePair = (limits: LinkLimits, farLimits?: LinkLimits) => Promise<LinkPair>

const LIMITS: LinkLimits = { maxFrameBytes: 2 ** 20, maxQueuedFrames: 8 }

export function linkContract(name: string, makePair: MakePair): void {
  describe(`${name}, dialler to listener`, () => suite(makePair))
  describe(`${name}, listener to dialler`, () =>
    suite(async (limits, farLimits = limits) => {
      const { near, far, release } = await makePair(farLimits, limits)
      return { near: far, far: near, release }
    }))
}

function suite(makePair: MakePair): void {
  const unhandled: unknown[] = []
  const note = (reason: unknown) => unhandled.push(reason)
  before(() => process.on('unhandledRejection', note))
  after(() => {
    process.off('unhandledRejection', note)
    assert.deepEqual(unhandled, [])
  })

  const withPair =
    (body: (near: Link, far: Link) => Promise<void>, limits = LIMITS, farLimits = limits) =>
    async () => {
      const { near, far, release } = await makePair(limits, farLimits)
      try {
        await body(near, far)
      } finally {
        await release()
      }
    }

  describe('frames', () => framesContract(withPair))
  describe('closing', () => closingContract(withPair))
}

type WithPair = (
  body: (near: Link, far: Link) => Promise<void>,
  limits?: LinkLimits,
  farLimits?: LinkLimits,
) => () => Promise<void>

function framesContract(withPair: WithPair): void {
  it(
    'keep their bytes, whatever their size',
    withPair(async (near, far) => {
      for (const size of [0, 1, 125, 126, 65_535, 65_536, LIMITS.maxFrameBytes]) {
        const frame = Uint8Array.from({ length: size }, (_, i) => i * 7)
        const sent = near.send(frame)
        assert.deepEqual(await received(far), frame)
        await sent
      }
    }),
  )

  it(
    'arrive in the order in which they were sent, though nobody waits for a send',
    withPair(async (near, far) => {
      const sends = Array.from({ length: 20_000 }, (_, i) => near.send(numbered(i, 16)))
      for (let i = 0; i < sends.length; i++) assert.equal(numberOf(await received(far)), i)
      await Promise.all(sends)
    }),
  )

  it(
    'travel both ways at once',
    withPair(async (near, far) => {
      const echo = (async () => {
        for (let i = 0; i < 200; i++) await far.send(await received(far))
      })()
      const sends = Array.from({ length: 200 }, (_, i) => near.send(numbered(i, 5_000)))
      for (let i = 0; i < 200; i++) assert.equal(numberOf(await received(near)), i)
      await Promise.all([echo, ...sends])
    }),
  )

  it(
    'may be overwritten once they are sent',
    withPair(async (near, far) => {
      const frame = numbered(1, 100_000)
      await near.send(frame)
      frame.fill(0xff)
      assert.equal(numberOf(await received(far)), 1)
    }),
  )

  it(
    'hold the sender back when nobody takes them, and none is lost',
    withPair(
      async (near, far) => {
        let done = 0
        const sends = Array.from({ length: 64 }, async (_, i) => {
          await near.send(numbered(i, LIMITS.maxFrameBytes))
          done += 1
        })
        const stalled = await standstill(() => done)
        assert.ok(stalled < sends.length, `all ${stalled} sends were accepted`)
        for (let i = 0; i < sends.length; i++) assert.equal(numberOf(await received(far)), i)
        await Promise.all(sends)
      },
      { ...LIMITS, maxQueuedFrames: 2 },
    ),
  )

  it(
    'are not lost to an aborted receive',
    withPair(async (near, far) => {
      const abort = new AbortController()
      const waiting = far.receive(abort.signal)
      abort.abort(new HeadraceError('shutting_down', 'enough'))
      await rejects(waiting, 'shutting_down')
      await rejects(far.receive(abort.signal), 'shutting_down')
      await rejects(far.receive(AbortSignal.abort()), 'cancelled')
      await near.send(numbered(5, 8))
      await rejects(far.receive(abort.signal), 'shutting_down')
      assert.equal(numberOf(await received(far)), 5)
      assert.equal(far.closed.aborted, false)
    }),
  )

  it(
    'are waited for by one receive at a time',
    withPair(async (near, far) => {
      const first = far.receive()
      await rejects(far.receive(), 'internal')
      await near.send(numbered(3, 8))
      assert.equal(numberOf((await first) ?? new Uint8Array(4)), 3)
    }),
  )

  it(
    'above the own limit are not sent, and end the link',
    withPair(async (near, far) => {
      await rejects(near.send(new Uint8Array(LIMITS.maxFrameBytes + 1)), 'frame_oversized')
      await rejects(far.receive(), 'frame_oversized')
      assert.equal(codeOf(near.closed), 'frame_oversized')
      assert.equal(codeOf(far.closed), 'frame_oversized')
    }),
  )

  it(
    "above the peer's limit end the link at both ends",
    withPair(
      async (near, far) => {
        await near.send(numbered(1, 100))
        // Whether the bytes are still handed over before the peer refuses them is a matter of timing.
        await Promise.all([
          near.send(new Uint8Array(101)).catch((error) => assert.equal(error.code, 'link_closed')),
          closed(near),
          closed(far),
        ])
        assert.equal(numberOf(await received(far)), 1)
        await rejects(far.receive(), 'frame_oversized')
        await rejects(near.receive(), 'frame_oversized')
      },
      LIMITS,
      { ...LIMITS, maxFrameBytes: 100 },
    ),
  )
}

function closingContract(withPair: WithPair): void {
  it(
    'in good order ends the receiving of both ends',
    withPair(async (near, far) => {
      const waiting = far.receive()
      near.close()
      assert.equal(await near.receive(), undefined)
      assert.equal(await waiting, undefined)
      assert.equal(await far.receive(), undefined)
      await closed(far)
      assert.equal(codeOf(near.closed), 'link_closed')
      assert.equal(codeOf(far.closed), 'link_closed')
    }),
  )

  it(
    'with a reason tells it to both ends',
    withPair(async (near, far) => {
      const waiting = rejects(near.receive(), 'fingerprint_mismatch')
      near.close(new HeadraceError('fingerprint_mismatch', 'another model'))
      await waiting
      await rejects(near.receive(), 'fingerprint_mismatch')
      await rejects(far.receive(), 'fingerprint_mismatch')
      assert.equal(codeOf(near.closed), 'fingerprint_mismatch')
      assert.equal(codeOf(far.closed), 'fingerprint_mismatch')
    }),
  )

  it(
    'twice counts once',
    withPair(async (near, far) => {
      near.close(new HeadraceError('worker_failed', 'first'))
      near.close(new HeadraceError('internal', 'second'))
      near.close()
      await rejects(far.receive(), 'worker_failed')
      far.close(new HeadraceError('internal', 'third'))
      assert.equal(codeOf(near.closed), 'worker_failed')
      assert.equal(codeOf(far.closed), 'worker_failed')
    }),
  )

  it(
    'from both ends at once is no error',
    withPair(async (near, far) => {
      near.close()
      far.close()
      assert.equal(await near.receive(), undefined)
      assert.equal(await far.receive(), undefined)
    }),
  )

  it(
    'lets the peer take what was sent before',
    withPair(async (near, far) => {
      for (let i = 0; i < 5; i++) await near.send(numbered(i, 1000))
      near.close()
      for (let i = 0; i < 5; i++) assert.equal(numberOf(await received(far)), i)
      assert.equal(await far.receive(), undefined)
    }),
  )

  it(
    'lets the peer take what was sent before, though its queue is full',
    withPair(async (near, far) => {
      const sends = Array.from({ length: 40 }, (_, i) => near.send(numbered(i, 1000)))
      near.close()
      for (let i = 0; i < 40; i++) assert.equal(numberOf(await received(far)), i)
      assert.equal(await far.receive(), undefined)
      await Promise.all(sends)
    }),
  )

  it(
    'forgets what the closing end has not taken',
    withPair(async (near, far) => {
      await near.send(numbered(1, 8))
      await near.send(numbered(2, 8))
      assert.equal(numberOf(await received(far)), 1)
      far.close()
      assert.equal(await far.receive(), undefined)
    }),
  )

  it(
    'makes every later send reject',
    withPair(async (near, far) => {
      near.close()
      await rejects(near.send(new Uint8Array(8)), 'link_closed')
      await closed(far)
      await rejects(far.send(new Uint8Array(8)), 'link_closed')
    }),
  )

  it(
    'settles the sends that the peer never took',
    withPair(async (near, far) => {
      const sends = Array.from({ length: 64 }, () => near.send(new Uint8Array(LIMITS.maxFrameBytes)))
      const settled = Promise.allSettled(sends)
      far.close(new HeadraceError('worker_failed', 'gone'))
      for (const send of await settled) if (send.status === 'rejected') assert.equal(send.reason.code, 'link_closed')
      await rejects(near.receive(), 'worker_failed')
    }),
  )
}

function numbered(n: number, size: number): Uint8Array {
  const frame = new Uint8Array(size)
  new DataView(frame.buffer).setUint32(0, n)
  return frame
}

function numberOf(frame: Uint8Array): number {
  return new DataView(frame.buffer, frame.byteOffset).getUint32(0)
}

async function received(link: Link): Promise<Uint8Array> {
  const frame = await link.receive()
  assert.ok(frame !== undefined, 'the link closed where a frame was due')
  return frame
}

async function rejects(promise: Promise<unknown>, code: string): Promise<void> {
  assert.ok(isErrorCode(code))
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof HeadraceError, String(error))
    assert.equal(error.code, code, error.message)
    return true
  })
}

async function closed(link: Link): Promise<void> {
  if (link.closed.aborted) return
  await new Promise((resolve) => link.closed.addEventListener('abort', resolve, { once: true }))
}

function codeOf(signal: AbortSignal): string {
  assert.ok(signal.reason instanceof HeadraceError)
  return signal.reason.code
}

/** The value that a counter keeps while the event loop turns 500 times. */
async function standstill(count: () => number): Promise<number> {
  let seen = count()
  for (let turns = 0; turns < 500; turns++) {
    await turn()
    if (count() === seen) continue
    seen = count()
    turns = 0
  }
  return seen
}
