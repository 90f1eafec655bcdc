import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { LinkWatch } from '../../../coordinator/cluster/link-watch.ts'
import { applyEvent, type ClusterEvent, type ClusterState, EMPTY_CLUSTER } from '../../../coordinator/cluster/state.ts'
import { asWorkerId } from '../../../shared/ids.ts'
import { createLog } from '../../../shared/log.ts'
import type { Command } from '../../../shared/protocol/control.ts'
import { ManualClock } from '../../support/manual-clock.ts'

const joined = (name: string, role: 'prefill' | 'decode'): ClusterEvent => ({
  kind: 'worker_joined',
  at: 0,
  worker: {
    id: asWorkerId(name),
    role,
    host: name,
    engine: 'onnx',
    precision: 'f32',
    url: `ws://${name}`,
    cores: 1,
    threads: 1,
    memoryBytes: 0,
    budgetBytes: 0,
  },
})
const calibrated = (name: string): ClusterEvent => ({ kind: 'worker_calibrated', at: 0, worker: asWorkerId(name) })

function start() {
  const clock = new ManualClock()
  const sent: { to: string; command: Command }[] = []
  const rim = {
    state: [joined('p', 'prefill'), joined('q', 'prefill'), joined('d', 'decode')]
      .concat(['p', 'q', 'd'].map(calibrated))
      .reduce(applyEvent, EMPTY_CLUSTER) as ClusterState,
    apply: (event: ClusterEvent) => {
      rim.state = applyEvent(rim.state, event)
    },
    send: (to: string, command: Command) => {
      sent.push({ to, command })
    },
  }
  const watch = new LinkWatch(rim, clock, createLog('test', 'silent'))
  const answer = (to: string, from: string, bytesPerSecond = 1e6) =>
    watch.answered(to, [{ from, rttSeconds: 0.01, bytesPerSecond }])
  return { clock, sent, rim, watch, answer }
}

const wanted = (from: string, to: string) => ({
  to,
  command: { kind: 'measure_links', peers: [{ worker: from, url: `ws://${from}` }] },
})

describe('the watch over the links', () => {
  it('asks for one at a time, the next as soon as the answer is there, and none twice', () => {
    const { sent, rim, watch, answer } = start()
    watch.tick()
    watch.tick()
    assert.deepEqual(sent, [wanted('p', 'd')])
    answer('d', 'p', 5e6)
    assert.equal(rim.state.links.get('p d')?.bytesPerSecond, 5e6)
    answer('d', 'q')
    answer('p', 'q')
    answer('q', 'p')
    watch.tick()
    assert.deepEqual(sent, [wanted('p', 'd'), wanted('q', 'd'), wanted('q', 'p'), wanted('p', 'q')])
    assert.equal(rim.state.links.size, 4)
  })

  it('measures again after two minutes, one link a second', () => {
    const { clock, sent, watch, answer } = start()
    watch.tick()
    for (const [to, from] of ['d p', 'd q', 'p q', 'q p'].map((pair) => pair.split(' ') as [string, string]))
      answer(to, from)
    clock.advance(120)
    watch.tick()
    assert.deepEqual(sent.slice(4), [wanted('q', 'p')])
    answer('p', 'q')
    assert.equal(sent.length, 5)
    watch.tick()
    assert.equal(sent.length, 6)
  })

  it('goes on when a worker could not measure, does not answer, or is gone', () => {
    const { clock, sent, rim, watch } = start()
    watch.tick()
    watch.answered('d', [])
    assert.deepEqual(sent.at(-1), wanted('q', 'd'))
    clock.advance(21)
    watch.tick()
    assert.deepEqual(sent.at(-1), wanted('q', 'p'))
    rim.apply({ kind: 'worker_lost', worker: asWorkerId('q'), reason: 'killed' })
    watch.gone('q')
    clock.advance(20)
    watch.tick()
    assert.deepEqual(sent.at(-1), wanted('p', 'd'))
    assert.equal(rim.state.links.size, 0)
  })

  it('takes no answers that it does not wait for', () => {
    const { rim, sent, watch, answer } = start()
    answer('d', 'p')
    watch.tick()
    answer('q', 'p')
    assert.equal(rim.state.links.size, 0)
    answer('d', 'q')
    assert.equal(rim.state.links.size, 0)
    assert.equal(sent.length, 2)
  })
})
