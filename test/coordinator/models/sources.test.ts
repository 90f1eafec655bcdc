import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { applyEvent, type ClusterEvent, EMPTY_CLUSTER } from '../../../coordinator/cluster/state.ts'
import { toClusterView } from '../../../coordinator/cluster/view.ts'
import { sourcesFor } from '../../../coordinator/models/sources.ts'
import { asWorkerId } from '../../../shared/ids.ts'
import { PieceSet } from '../../../shared/model-store/piece-set.ts'

const place = (name: string) => ({
  id: asWorkerId(name),
  role: 'prefill' as const,
  engine: 'onnx',
  host: name,
  url: `ws://${name}/link`,
  cores: 1,
  threads: 1,
  memoryBytes: 0,
  budgetBytes: 0,
})
const fetching = (name: string, ...bits: number[]): ClusterEvent => ({
  kind: 'model_fetching',
  worker: { ...place(name), have: new PieceSet(10, Uint8Array.from(bits)), lastSeen: 3 },
})
const joined = (name: string): ClusterEvent => ({
  kind: 'worker_joined',
  at: 0,
  worker: { ...place(name), precision: 'f32' },
})
const stateAfter = (...events: ClusterEvent[]) => events.reduce(applyEvent, EMPTY_CLUSTER)

describe('where pieces of the model are', () => {
  it('is at workers that have joined and at those on the way, but not at the asker', () => {
    const state = stateAfter(joined('w'), joined('gone'), fetching('a', 1), fetching('b', 3, 2), fetching('none', 0), {
      kind: 'worker_leaving',
      at: 1,
      worker: asWorkerId('gone'),
    })
    const { command, payload } = sourcesFor(state, 'ws://a/link', 10)
    assert.deepEqual(command, {
      kind: 'sources',
      sources: [
        { url: 'ws://b/link', whole: false },
        { url: 'ws://w/link', whole: true },
      ],
    })
    assert.deepEqual([...payload], [3, 2])
  })

  it('is not at those that fetch a model of another size', () => {
    assert.deepEqual([...sourcesFor(stateAfter(fetching('a', 1)), 'ws://x/link', 11).payload], [])
  })

  it('is bounded, whatever comes', () => {
    const many = Array.from({ length: 200 }, (_, i) => [fetching(`a${i}`, 1), joined(`w${i}`)]).flat()
    const { command } = sourcesFor(stateAfter(...many), 'ws://x/link', 10)
    assert.ok(command.kind === 'sources' && command.sources.length === 32)
  })
})

describe('a worker whose model is on its way', () => {
  it('is seen as downloading, until it has it or is gone', () => {
    const state = stateAfter(fetching('a', 1), fetching('a', 0xff))
    const [view, ...others] = toClusterView(state, 5, { running: 0, waiting: 0 }).workers
    assert.deepEqual(others, [])
    assert.deepEqual([view?.state, view?.modelShare, view?.lastSeenSeconds], ['downloading', 0.8, 2])
    const ended = applyEvent(state, { kind: 'fetch_ended', url: 'ws://a/link' })
    assert.deepEqual(toClusterView(ended, 5, { running: 0, waiting: 0 }).workers, [])
  })
})
