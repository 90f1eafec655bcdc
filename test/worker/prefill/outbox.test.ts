import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import type { HeadraceError } from '../../../shared/errors.ts'
import type { Link } from '../../../shared/link/link.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import { type OutboundFrame, Outbox } from '../../../worker/prefill/outbox.ts'
import { memoryLinkPair } from '../../support/memory-link.ts'

const frame = (layer: number, start: number): OutboundFrame => ({
  layer,
  start,
  frame: Uint8Array.of(layer, start),
})

function outbox(expected: number) {
  const sent: OutboundFrame[] = []
  const errors: HeadraceError[] = []
  const box = new Outbox({ expected, clock: realClock, onSent: (f) => sent.push(f), onError: (e) => errors.push(e) })
  return { box, sent, errors }
}

const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
}

/** A link on which a frame takes until `sent`. */
function gatedLink() {
  const sending: (() => void)[] = []
  const link = { send: () => new Promise<void>((resolve) => sending.push(resolve)) } as Partial<Link> as Link
  const sent = async (): Promise<void> => {
    sending.shift()!()
    await settle()
  }
  return { link, sent }
}

describe('an outbox', () => {
  it('sends the rest on the link of a subscriber that asks again, when the frame on its way is over', async () => {
    const { box, sent, errors } = outbox(3)
    const [first, second] = [gatedLink(), gatedLink()]
    for (const start of [1, 2, 3]) box.push(frame(0, start))
    box.attach(first.link, 1)
    box.attach(second.link, 1)
    await first.sent()
    await second.sent()
    await second.sent()
    assert.deepEqual(
      sent.map(({ start }) => start),
      [1, 2, 3],
    )
    assert.ok(box.drained)
    assert.deepEqual(errors, [])
  })

  it('keeps frames until its subscriber comes, then sends the lowest layer and position first', async () => {
    const { box, sent } = outbox(4)
    for (const [layer, start] of [
      [1, 0],
      [0, 9],
      [0, 2],
      [1, 7],
    ] as const)
      box.push(frame(layer, start))
    await settle()
    assert.equal(sent.length, 0)
    const [near] = memoryLinkPair()
    box.attach(near, 8)
    await settle()
    assert.deepEqual(
      sent.map(({ layer, start }) => [layer, start]),
      [
        [0, 2],
        [0, 9],
        [1, 0],
        [1, 7],
      ],
    )
    assert.ok(box.drained)
  })

  it('sends no layer at or above the window, and windows only grow', async () => {
    const { box, sent } = outbox(4)
    const [near] = memoryLinkPair()
    box.attach(near, 1)
    for (let layer = 0; layer < 4; layer++) box.push(frame(layer, 0))
    await settle()
    assert.equal(sent.length, 1)
    box.grant(3)
    box.grant(2)
    await settle()
    assert.equal(sent.length, 3)
    assert.ok(!box.drained)
  })

  it('of the earlier run goes first on a link that two runs share', async () => {
    const order: string[] = []
    const [near] = memoryLinkPair()
    const [first, second] = ['first', 'second'].map((run) => {
      const onSent = ({ layer }: OutboundFrame) => order.push(`${run} ${layer}`)
      const box = new Outbox({ expected: 3, clock: realClock, onSent, onError: assert.fail })
      box.attach(near, 2)
      return box
    })
    for (let layer = 0; layer < 3; layer++) second!.push(frame(layer, 0))
    for (let layer = 0; layer < 3; layer++) first!.push(frame(layer, 0))
    await settle()
    assert.deepEqual(order, ['second 0', 'first 0', 'first 1', 'second 1'], 'only what is under way is not overtaken')
    second!.grant(3)
    first!.grant(3)
    await settle()
    assert.deepEqual(order.slice(4), ['second 2', 'first 2'])
    assert.ok(first!.drained && second!.drained)
  })

  it('lets the other run go on when one is cleared', async () => {
    const { box, sent } = outbox(2)
    const gone = outbox(2)
    const [near] = memoryLinkPair()
    gone.box.attach(near, 9)
    box.attach(near, 9)
    for (let layer = 0; layer < 2; layer++) {
      gone.box.push(frame(layer, 0))
      box.push(frame(layer, 0))
    }
    gone.box.clear()
    await settle()
    assert.deepEqual(
      sent.map(({ layer }) => layer),
      [0, 1],
    )
  })

  it('holds a frame back while one of its layer or a lower is ready in the outbox that it comes after', async () => {
    const order: string[] = []
    const noted = (name: string) => ({
      expected: 4,
      clock: realClock,
      onSent: ({ layer }: OutboundFrame) => order.push(`${name} ${layer}`),
      onError: assert.fail,
    })
    const prefix = new Outbox({ ...noted('prefix'), onTaken: () => handoff.wake() })
    const handoff: Outbox = new Outbox({ ...noted('handoff'), after: prefix })
    const slow = gatedLink()
    const [fast] = memoryLinkPair()
    for (const box of [prefix, handoff]) for (let layer = 0; layer < 3; layer++) box.push(frame(layer, 0))
    prefix.attach(slow.link, 3)
    handoff.attach(fast, 3)
    await settle()
    assert.deepEqual(order, ['handoff 0'], 'layer 1 waits for its link')
    await slow.sent()
    assert.deepEqual(order.slice(1), ['prefix 0', 'handoff 1'])
    await slow.sent()
    assert.deepEqual(order.slice(3), ['prefix 1', 'handoff 2'])
  })

  it('reports a link that closes', async () => {
    const { box, errors } = outbox(1)
    const [near] = memoryLinkPair()
    near.close()
    box.attach(near, 1)
    box.push(frame(0, 0))
    await settle()
    assert.deepEqual(
      errors.map(({ code }) => code),
      ['link_closed'],
    )
  })

  it('loses and repeats nothing, whatever the order of pushes and grants', async () => {
    const steps = fc.array(
      fc.oneof(fc.record({ grant: fc.nat(6) }), fc.record({ layer: fc.nat(5), start: fc.nat(9) })),
      { maxLength: 40 },
    )
    await fc.assert(
      fc.asyncProperty(steps, async (list) => {
        const pushed = list.filter((step) => 'layer' in step)
        const { box, sent } = outbox(pushed.length)
        const [near, far] = memoryLinkPair({ maxFrameBytes: 64, maxQueuedFrames: 100 })
        box.attach(near, 0)
        for (const step of list) {
          if ('layer' in step) box.push(frame(step.layer, step.start))
          else box.grant(step.grant)
          await new Promise((resolve) => setImmediate(resolve))
        }
        box.grant(6)
        await settle()
        assert.equal(sent.length, pushed.length)
        assert.ok(box.drained)
        const arrived = []
        for (let i = 0; i < pushed.length; i++) arrived.push([...(await far.receive())!].join())
        assert.deepEqual(arrived.sort(), pushed.map(({ layer, start }) => `${layer},${start}`).sort())
      }),
      { seed: 4, numRuns: 60 },
    )
  })
})
