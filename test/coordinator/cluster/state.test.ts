import assert from 'node:assert/strict'
import { describe, it, test } from 'node:test'
import fc from 'fast-check'
import {
  applyEvent,
  type ClusterEvent,
  type ClusterState,
  EMPTY_CLUSTER,
  findWorker,
  readyDecode,
  readyPrefill,
  silentWorkers,
  type WorkerIdentity,
} from '../../../coordinator/cluster/state.ts'
import { toClusterView } from '../../../coordinator/cluster/view.ts'
import type { HeadraceError } from '../../../shared/errors.ts'
import { asRunId, asWorkerId } from '../../../shared/ids.ts'
import type { Role } from '../../../shared/protocol/control.ts'

const identity = (name: string, role: Role = 'prefill'): WorkerIdentity => ({
  id: asWorkerId(name),
  role,
  engine: 'onnx',
  precision: 'f32',
  host: `${name}.local`,
  url: `ws://${name}.local:7001`,
  cores: 8,
  threads: 4,
  memoryBytes: 16e9,
  budgetBytes: 8e9,
})
const cost = { o: 1e-4, a: 1e-5, b: 1e-9 }
const noRuns = { running: 0, waiting: 0 }

const joined = (name: string, at = 0, role: Role = 'prefill'): ClusterEvent => ({
  kind: 'worker_joined',
  at,
  worker: identity(name, role),
})
const calibrated = (name: string, at = 0): ClusterEvent => ({
  kind: 'worker_calibrated',
  at,
  worker: asWorkerId(name),
  cost,
})
const pinged = (name: string, at: number, rttSeconds = 0.002): ClusterEvent => ({
  kind: 'worker_pinged',
  at,
  worker: asWorkerId(name),
  rttSeconds,
  residentBytes: 1e9,
  clockSeconds: at + 100,
})
const leaving = (name: string, at = 0): ClusterEvent => ({ kind: 'worker_leaving', at, worker: asWorkerId(name) })
const lost = (name: string): ClusterEvent => ({ kind: 'worker_lost', worker: asWorkerId(name), reason: 'link closed' })
const assigned = (name: string, run: string): ClusterEvent => ({
  kind: 'run_assigned',
  worker: asWorkerId(name),
  run: asRunId(run),
})
const released = (name: string, run: string): ClusterEvent => ({
  kind: 'run_released',
  worker: asWorkerId(name),
  run: asRunId(run),
})
const measured = (from: string, to: string, at: number, bytesPerSecond: number, rttSeconds = 0.001): ClusterEvent => ({
  kind: 'link_measured',
  at,
  link: { from: asWorkerId(from), to: asWorkerId(to) },
  bytesPerSecond,
  rttSeconds,
})
const asked = (from: string, to: string, at: number): ClusterEvent => ({
  kind: 'link_asked',
  at,
  link: { from: asWorkerId(from), to: asWorkerId(to) },
})
const forgotten = (name: string): ClusterEvent => ({ kind: 'forgotten', worker: asWorkerId(name) })

const after = (...events: ClusterEvent[]): ClusterState => events.reduce(applyEvent, EMPTY_CLUSTER)
const states = (state: ClusterState) =>
  toClusterView(state, 0, noRuns).workers.map((worker) => `${worker.id} ${worker.state}`)
const ids = (workers: readonly { readonly id: string }[]) => workers.map(({ id }) => id)

test('a worker joins, is calibrated, and is then ready', () => {
  assert.deepEqual(states(after(joined('a'))), ['a joining'])
  assert.deepEqual(ids(readyPrefill(after(joined('a')))), [])
  assert.deepEqual(states(after(joined('a'), calibrated('a'))), ['a ready'])
  assert.deepEqual(ids(readyPrefill(after(joined('a'), calibrated('a')))), ['a'])
})

test('a decode node is ready without a cost, a prefill worker is not', () => {
  const ready = (name: string): ClusterEvent => ({ kind: 'worker_calibrated', at: 1, worker: asWorkerId(name) })
  const state = after(joined('p'), ready('p'), joined('d', 0, 'decode'), ready('d'))
  assert.deepEqual(ids(readyPrefill(state)), [])
  assert.deepEqual(ids(readyDecode(state)), ['d'])
})

test('a second worker of the same name is refused while the first is connected', () => {
  const nameTaken = (error: HeadraceError) => error.code === 'name_taken' && error.message.includes('named a ')
  assert.throws(() => after(joined('a'), joined('a')), nameTaken)
  assert.throws(() => after(joined('a'), leaving('a'), joined('a')), nameTaken)
  assert.deepEqual(states(after(joined('a'), lost('a'), joined('a'))), ['a joining'])
})

test('a quarantined worker stays connected, keeps its runs, and gets no new ones, whatever it does', () => {
  const quarantined: ClusterEvent = { kind: 'worker_quarantined', worker: asWorkerId('a') }
  const state = after(joined('a'), calibrated('a'), assigned('a', 'r1'), quarantined)
  assert.deepEqual(states(state), ['a quarantined'])
  assert.deepEqual(readyPrefill(state), [])
  assert.deepEqual(findWorker(state, asWorkerId('a'))?.runs, ['r1'])
  const again = [calibrated('a'), lost('a'), joined('a')].reduce(applyEvent, state)
  assert.deepEqual(states(again), ['a joining'])
  assert.deepEqual(states(applyEvent(again, calibrated('a'))), ['a quarantined'])
  assert.deepEqual(states(after(joined('b'), calibrated('b'), quarantined)), ['b ready'])
  const gone = after(joined('a'), calibrated('a'), lost('a'), quarantined, joined('a'), calibrated('a'))
  assert.deepEqual(states(gone), ['a quarantined'], 'it left before it was found out')
})

test('a quarantined worker can leave in good order', () => {
  const quarantined: ClusterEvent = { kind: 'worker_quarantined', worker: asWorkerId('a') }
  const state = after(joined('a'), calibrated('a'), quarantined, leaving('a'))
  assert.deepEqual(states(state), ['a leaving'])
  assert.deepEqual(readyPrefill(state), [])
})

test('a leaving worker keeps its runs and gets no new ones, even if its calibration ends late', () => {
  const state = after(joined('a'), assigned('a', 'r1'), leaving('a'), calibrated('a'))
  assert.deepEqual(states(state), ['a leaving'])
  assert.deepEqual(readyPrefill(state), [])
  assert.deepEqual(findWorker(state, asWorkerId('a'))?.runs, ['r1'])
})

test('what a worker’s clock says is kept for a while', () => {
  const pings = Array.from({ length: 20 }, (_, at) => pinged('a', at, 0.5))
  const { clock = [] } = findWorker(after(joined('a'), ...pings), asWorkerId('a'))!
  assert.equal(clock.length, 16)
  assert.deepEqual(clock[0], { offsetSeconds: 100.25, rttSeconds: 0.5 })
  assert.equal(findWorker(after(joined('a'), ...pings, lost('a'), joined('a')), asWorkerId('a'))?.clock, undefined)
})

test('a lost worker is seen, without runs, and nothing more is believed of it', () => {
  const state = after(joined('a'), calibrated('a'), assigned('a', 'r1'), lost('a'))
  assert.deepEqual(states(state), ['a lost'])
  assert.equal(state.lost[0]?.reason, 'link closed')
  assert.equal(toClusterView(state, 0, noRuns).workers[0]?.runs, 0)
  for (const late of [calibrated('a', 9), pinged('a', 9), leaving('a', 9), assigned('a', 'r2'), lost('a')])
    assert.deepEqual(applyEvent(state, late), state)
})

test('the 65th lost worker makes the first forgotten', () => {
  const names = Array.from({ length: 65 }, (_, i) => `w${i}`)
  const state = after(...names.map((name) => joined(name)), ...names.map(lost))
  assert.deepEqual(ids(state.lost), names.slice(1))
})

test('a forgotten worker is gone', () => {
  assert.deepEqual(after(joined('a'), joined('b'), forgotten('a'), lost('b'), forgotten('b')), EMPTY_CLUSTER)
})

test('a run counts once, however often it is assigned or released', () => {
  const runs = (...events: ClusterEvent[]) => findWorker(after(joined('a'), ...events), asWorkerId('a'))?.runs
  assert.deepEqual(runs(assigned('a', 'r1'), assigned('a', 'r1'), assigned('a', 'r2')), ['r1', 'r2'])
  assert.deepEqual(runs(assigned('a', 'r1'), released('a', 'r1'), released('a', 'r1')), [])
})

test('round trips are smoothed, so that one slow answer does not change every plan', () => {
  const rtt = (...samples: number[]) =>
    readyPrefill(after(joined('a'), calibrated('a'), ...samples.map((sample) => pinged('a', 1, sample))))[0]?.rttSeconds
  assert.equal(rtt(), undefined)
  assert.equal(rtt(0.008), 0.008)
  assert.equal(rtt(8 / 1024, 16 / 1024), 9 / 1024)
})

test('a worker is silent once it was not heard of for longer than the limit', () => {
  const state = after(joined('a', 0), joined('b', 0), pinged('b', 4), joined('c', 0), lost('c'))
  assert.deepEqual(silentWorkers(state, 5, 5), [])
  assert.deepEqual(silentWorkers(state, 5.1, 5), ['a'])
  assert.deepEqual(silentWorkers(state, 10, 5), ['a', 'b'])
})

test('the view shows what is known and leaves out what is not', () => {
  const joins = [joined('p', 1), joined('d', 2, 'decode'), calibrated('p', 3), pinged('p', 4)]
  const state = after(...joins, measured('p', 'd', 5, 1e8), assigned('p', 'r1'))
  const known = {
    engine: 'onnx',
    precision: 'f32',
    cores: 8,
    threads: 4,
    memoryBytes: 16e9,
    budgetBytes: 8e9,
    freeBytes: 8e9,
  }
  assert.deepEqual(toClusterView(state, 10, { running: 1, waiting: 2 }), {
    workers: [
      {
        ...known,
        id: 'p',
        role: 'prefill',
        state: 'ready',
        host: 'p.local',
        cost,
        rttSeconds: 0.002,
        lastSeenSeconds: 6,
        runs: 1,
      },
      { ...known, id: 'd', role: 'decode', state: 'joining', host: 'd.local', lastSeenSeconds: 8, runs: 0 },
    ],
    links: [{ from: 'p', to: 'd', bytesPerSecond: 1e8, rttSeconds: 0.001, ageSeconds: 5 }],
    runs: { running: 1, waiting: 2 },
  })
})

test('any order of events keeps one worker of a name, and never changes an old state', () => {
  const name = fc.constantFrom('a', 'b', 'c')
  const event = fc.oneof(
    name.map((n) => joined(n)),
    name.map((n) => calibrated(n)),
    name.map((n) => pinged(n, 1)),
    name.map((n) => leaving(n)),
    name.map(lost),
    name.map((n) => assigned(n, 'r1')),
    name.map((n) => released(n, 'r1')),
    name.map(forgotten),
    fc.tuple(name, name).map(([from, to]) => asked(from, to, 1)),
    fc.tuple(name, name).map(([from, to]) => measured(from, to, 1, 1e6)),
  )
  fc.assert(
    fc.property(fc.array(event, { maxLength: 40 }), (events) => {
      let state = EMPTY_CLUSTER
      for (const event of events) {
        const before = structuredClone(state)
        const taken = event.kind === 'worker_joined' && findWorker(state, event.worker.id) !== undefined
        const next = taken ? state : applyEvent(state, event)
        assert.deepEqual(state, before)
        const names = ids([...next.workers, ...next.lost])
        assert.equal(new Set(names).size, names.length)
        for (const { from, to } of [...next.links.values(), ...next.asked.values()])
          assert.ok(findWorker(next, from) && findWorker(next, to))
        state = next
      }
    }),
    { seed: 20_260_801, numRuns: 300 },
  )
})

describe('the links', () => {
  const link = (state: ClusterState) => state.links.get('a b')
  const both = [joined('a'), joined('b')]

  it('are known once measured: rates smoothed, of round trips the least of the last four', () => {
    assert.deepEqual(link(after(...both, measured('a', 'b', 1, 100, 0.2))), {
      from: 'a',
      to: 'b',
      bytesPerSecond: 100,
      rttSeconds: 0.2,
      recentRtts: [0.2],
      measuredAt: 1,
    })
    const again = after(...both, measured('a', 'b', 1, 100, 0.2), measured('a', 'b', 9, 200, 0.5))
    assert.deepEqual([link(again)?.bytesPerSecond, link(again)?.rttSeconds, link(again)?.measuredAt], [150, 0.2, 9])
    const later = [0.5, 0.5, 0.4].reduce((state, rtt) => applyEvent(state, measured('a', 'b', 10, 150, rtt)), again)
    assert.equal(link(later)?.rttSeconds, 0.4)
  })

  it('inside a host are as fast as they ever were', () => {
    const beside: ClusterEvent = { kind: 'worker_joined', at: 0, worker: { ...identity('b'), host: 'a.local' } }
    const rates = [100, 300, 200].map((rate) => measured('a', 'b', 1, rate))
    assert.equal(link(after(joined('a'), beside, ...rates))?.bytesPerSecond, 300)
  })

  it('have a direction', () => {
    const state = after(...both, measured('a', 'b', 1, 100), measured('b', 'a', 1, 300))
    assert.deepEqual([state.links.get('a b')?.bytesPerSecond, state.links.get('b a')?.bytesPerSecond], [100, 300])
  })

  it('go with either of their workers, and are not believed of one that is gone', () => {
    const state = after(
      ...both,
      joined('c'),
      asked('a', 'b', 1),
      measured('a', 'b', 1, 100),
      measured('b', 'c', 1, 100),
    )
    for (const gone of [lost('a'), forgotten('a')]) {
      const left = applyEvent(state, gone)
      assert.deepEqual([[...left.links.keys()], [...left.asked.keys()]], [['b c'], []])
      assert.equal(applyEvent(left, measured('a', 'b', 2, 100)), left)
      assert.equal(applyEvent(left, asked('c', 'a', 2)), left)
    }
  })
})

test('a decode node has reserved what its runs will hold, until they are over', () => {
  const reserving = (run: string, kvBytes: number): ClusterEvent => ({
    kind: 'run_assigned',
    worker: asWorkerId('d'),
    run: asRunId(run),
    kvBytes,
  })
  const free = (...events: ClusterEvent[]) =>
    toClusterView(after(joined('d', 0, 'decode'), ...events), 0, noRuns).workers[0]?.freeBytes
  assert.equal(free(), 8e9)
  assert.equal(free(reserving('r1', 1e9), reserving('r2', 2e9), reserving('r2', 2e9)), 5e9)
  assert.equal(free(reserving('r1', 1e9), reserving('r2', 2e9), released('d', 'r2')), 7e9)
  assert.equal(free(reserving('r1', 9e9)), 0)
  assert.equal(free(reserving('r1', 1e9), lost('d')), 8e9)
})

describe('a cost that a run has measured', () => {
  const worker = asWorkerId('w')
  const start = after(joined('w'), { kind: 'worker_calibrated', at: 1, worker, cost: { o: 0, a: 1, b: 1 } })
  /** 1000 s were predicted of each part, at first. */
  const ran = (state: ClusterState, shared: boolean, computeSeconds: number) =>
    applyEvent(state, {
      kind: 'worker_measured',
      worker,
      shared,
      measured: { work: { o: 1, a: 1000, b: 1000 }, computeSeconds, attendSeconds: computeSeconds / 2 },
    })
  const costs = (state: ClusterState) => {
    const { cost, sharedCost } = findWorker(state, worker)!
    return [cost?.a, sharedCost?.a].map((a) => a && Number(a.toFixed(2)))
  }

  it('is kept apart from that of a host which computes with several workers', () => {
    const alone = ran(start, false, 4000)
    assert.deepEqual(costs(alone), [1.35, undefined])
    const both = ran(alone, true, 4000)
    assert.equal(costs(both)[0], 1.35)
    assert.ok(costs(both)[1]! > 1.7)
  })

  it('tells of the other kind while no run has told better', () => {
    const shared = ran(start, true, 4000)
    assert.deepEqual(costs(shared), [1.26, 1.45], 'alone it is thought to be faster by what it was before')
    assert.deepEqual(costs(ran(start, true, 2300)), [1, 1.15], 'as predicted')
    assert.equal(costs(ran(shared, true, 4000))[0], 1.26)
    const [alone, beside] = costs(ran(shared, true, 500))
    assert.equal(alone, beside, 'nobody is slower alone')
    assert.deepEqual(costs(ran(shared, false, 2000))[1], 1.45)
    assert.equal(costs(ran(ran(start, false, 2000), true, 4000))[0], 1)
  })

  it('is moved half as far by the very first run, which finds nothing ready', () => {
    const [first] = costs(ran(start, false, 4000))
    const [second] = costs(ran(ran(start, false, 2000), false, 4000))
    assert.deepEqual([first, second], [1.35, 1.7])
  })

  it('is nothing to a worker that was never calibrated', () => {
    const state = after(joined('w'))
    assert.deepEqual(ran(state, true, 1), state)
  })
})
