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
  toClusterView,
  type WorkerIdentity,
} from '../../../coordinator/cluster/state.ts'
import type { HeadraceError } from '../../../shared/errors.ts'
import { asRunId, asWorkerId } from '../../../shared/ids.ts'
import type { Role } from '../../../shared/protocol/control.ts'

const identity = (name: string, role: Role = 'prefill'): WorkerIdentity => ({
  id: asWorkerId(name),
  role,
  engine: 'onnx',
  host: `${name}.local`,
  url: `ws://${name}.local:7001`,
  cores: 8,
  memoryBytes: 16e9,
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
  const state = after(joined('p', 1), joined('d', 2, 'decode'), calibrated('p', 3), pinged('p', 4), assigned('p', 'r1'))
  const known = { engine: 'onnx', cores: 8, memoryBytes: 16e9 }
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
        state = next
      }
    }),
    { seed: 20_260_801, numRuns: 300 },
  )
})

describe('a cost that a run has measured', () => {
  const identity = {
    id: asWorkerId('w'),
    role: 'prefill' as const,
    engine: 'onnx',
    host: 'h',
    url: '',
    cores: 1,
    memoryBytes: 0,
  }
  const calibrated = applyEvent(applyEvent(EMPTY_CLUSTER, { kind: 'worker_joined', at: 0, worker: identity }), {
    kind: 'worker_calibrated',
    at: 1,
    worker: identity.id,
    cost: { o: 1, a: 2, b: 4 },
  })
  const measured = (state: typeof calibrated, ratio: number) =>
    applyEvent(state, { kind: 'worker_measured', worker: identity.id, predictedSeconds: 1, measuredSeconds: ratio })

  it('moves half of the way, all parts alike', () => {
    assert.deepEqual(findWorker(measured(calibrated, 2), identity.id)?.cost, { o: 1.5, a: 3, b: 6 })
  })

  it('is not thrown off by one absurd run', () => {
    assert.deepEqual(findWorker(measured(calibrated, 1e6), identity.id)?.cost, { o: 2.5, a: 5, b: 10 })
    assert.deepEqual(findWorker(measured(calibrated, Number.NaN), identity.id)?.cost, { o: 1, a: 2, b: 4 })
  })

  it('comes close to the truth in a few runs', () => {
    let state = calibrated
    const truth = 3
    for (let run = 0; run < 8; run++) state = measured(state, truth / (findWorker(state, identity.id)?.cost?.o ?? 0))
    assert.ok(Math.abs((findWorker(state, identity.id)?.cost?.o ?? 0) - truth) < 0.02)
  })
})
