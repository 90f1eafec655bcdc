import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { nextLink } from '../../../coordinator/cluster/next-link.ts'
import { applyEvent, type ClusterEvent, type ClusterState, EMPTY_CLUSTER } from '../../../coordinator/cluster/state.ts'
import { asRunId, asWorkerId } from '../../../shared/ids.ts'

/** `p1@h1`: a prefill worker named p1 on host h1; names with d are decode nodes. */
const ready = (...names: string[]): ClusterEvent[] => names.flatMap((name) => [joined(name), calibrated(name)])
const joined = (name: string): ClusterEvent => ({
  kind: 'worker_joined',
  at: 0,
  worker: {
    id: idOf(name),
    role: name.startsWith('d') ? 'decode' : 'prefill',
    host: name.split('@')[1]!,
    engine: 'onnx',
    precision: 'f32',
    url: `ws://${name}`,
    cores: 1,
    threads: 1,
    memoryBytes: 0,
    budgetBytes: 0,
  },
})
const calibrated = (name: string): ClusterEvent => ({ kind: 'worker_calibrated', at: 0, worker: idOf(name) })
const idOf = (name: string) => asWorkerId(name.split('@')[0]!)
const nameOf = (link: string) => {
  const [from, to] = link.split(' ')
  return { from: asWorkerId(from!), to: asWorkerId(to!) }
}
const asked = (link: string, at: number): ClusterEvent => ({ kind: 'link_asked', at, link: nameOf(link) })
const measured = (link: string, at: number): ClusterEvent => ({
  kind: 'link_measured',
  at,
  link: nameOf(link),
  bytesPerSecond: 1e9,
  rttSeconds: 0.001,
})
const running = (name: string): ClusterEvent => ({ kind: 'run_assigned', worker: asWorkerId(name), run: asRunId('r') })
const after = (...events: ClusterEvent[]): ClusterState => events.reduce(applyEvent, EMPTY_CLUSTER)
const next = (state: ClusterState, now: number, refresh = true) => {
  const link = nextLink(state, now, refresh)
  return link && `${link.from} ${link.to}`
}

/** Asks for links as long as one is due, each measured at once; what was asked, in order. */
function measureAll(state: ClusterState, now: number): { order: string[]; state: ClusterState } {
  const order: string[] = []
  let current = state
  for (let link = next(current, now); link !== undefined; link = next(current, now)) {
    order.push(link)
    current = [asked(link, now), measured(link, now)].reduce(applyEvent, current)
  }
  return { order, state: current }
}

describe('the link to measure next', () => {
  const three = after(...ready('p1@h1', 'p2@h2', 'd1@h3'))

  it('is one to a decode node first, then those between prefill workers, both ways', () => {
    assert.deepEqual(measureAll(three, 0).order, ['p1 d1', 'p2 d1', 'p2 p1', 'p1 p2'])
  })

  it('is none while there is nobody to receive', () => {
    assert.equal(next(after(...ready('p1@h1')), 0), undefined)
    assert.equal(next(after(...ready('d1@h1', 'd2@h2')), 0), undefined)
  })

  for (const [what, event] of [
    ['has a run', running('p1')],
    ['shares its host with a run', running('x')],
    ['shares its host with a worker that is calibrating', joined('p3@h1')],
    ['is leaving', { kind: 'worker_leaving', at: 0, worker: asWorkerId('p1') } as const],
  ] as const)
    it(`is none of a worker that ${what}`, () => {
      const state = after(...ready('p1@h1', 'x@h1', 'p2@h2', 'd1@h3'), measured('x d1', 0), event)
      const { order } = measureAll(state, 1)
      assert.ok(order.includes('p2 d1'))
      assert.deepEqual(
        order.filter((link) => link.split(' ').includes('p1')),
        [],
      )
    })

  it('is one that failed again half a minute later, after those that were never asked for', () => {
    const state = applyEvent(three, asked('p1 d1', 10))
    assert.equal(next(state, 11), 'p2 d1')
    const rest = ['p2 d1', 'p2 p1', 'p1 p2'].reduce((s, link) => applyEvent(s, measured(link, 11)), state)
    assert.equal(next(rest, 39.9), undefined)
    assert.equal(next(rest, 40), 'p1 d1')
  })

  it('is the one measured longest ago, two minutes after', () => {
    const { state } = measureAll(after(...ready('p1@h1', 'p2@h2', 'd1@h3')), 0)
    const newer = applyEvent(state, measured('p1 d1', 50))
    assert.equal(next(newer, 119), undefined)
    assert.equal(next(newer, 120), 'p2 p1')
    assert.equal(next(newer, 120, false), undefined)
    assert.deepEqual(measureAll(newer, 1000).order, ['p2 p1', 'p1 p2', 'p2 d1', 'p1 d1'])
  })

  it('is one inside a host three times, and never again', () => {
    let state = after(...ready('p1@h1', 'd1@h1'))
    const times = []
    for (let now = 0; now < 1000; now += 10) {
      const measuredNow = measureAll(state, now)
      state = measuredNow.state
      if (measuredNow.order.length > 0) times.push(now)
    }
    assert.deepEqual(times, [0, 30, 60])
  })
})
