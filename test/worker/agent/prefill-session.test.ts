import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { BufferPool } from '../../../shared/link/buffer-pool.ts'
import type { Link } from '../../../shared/link/link.ts'
import { realClock } from '../../../shared/link/real-clock.ts'
import { createLog } from '../../../shared/log.ts'
import type { PrefillAssignment, WorkerEvent } from '../../../shared/protocol/control.ts'
import { decodeMessage } from '../../../shared/protocol/messages.ts'
import { peerDeliverySchema } from '../../../shared/protocol/peer.ts'
import { PrefillSession } from '../../../worker/agent/prefill-session.ts'
import type { SessionDeps } from '../../../worker/agent/session.ts'
import type { Compute, OnEvent } from '../../../worker/compute/compute.ts'
import { summed } from '../../../worker/kv/block.ts'
import { WorkerMetrics } from '../../../worker/metrics.ts'
import type { SubscribeOptions } from '../../../worker/peers/dialling.ts'
import type { RunServer } from '../../../worker/peers/listening.ts'
import { llamaShape } from '../../support/llama-shape.ts'

const LAYERS = 3
const shape = llamaShape({
  layers: LAYERS,
  hidden: 4,
  heads: 1,
  kvHeads: 1,
  headDim: 4,
  ffn: 8,
  vocab: 10,
  contextLength: 64,
  tiedHead: true,
})
/** A ring of two, whose other one is both before and after this one. */
const assignment: PrefillAssignment = {
  kind: 'prefill',
  run: 'r',
  strategy: 'ring',
  rank: 0,
  workers: ['w1', 'w2'].map((worker, i) => ({
    worker,
    epoch: 1,
    url: `ws://${worker}`,
    spans: [{ start: 4 * i, end: 4 * i + 4 }],
    prefixWire: 'f32',
    handoffWire: 'f32',
  })),
  decode: 'd1',
  decodeUrl: 'ws://d1',
  layers: { from: 0, to: LAYERS },
  blockTokens: 4,
  promptTokens: 9,
  tickets: ['w2', 'd1'].map((source) => ({ source, ticket: 't' })),
}

/** A link that notes what is sent on it; `stalled` ones never take anything. */
function linkOf(stalled: boolean) {
  const layers: number[] = []
  const send = (frame: Uint8Array): Promise<void> => {
    const { message } = decodeMessage(peerDeliverySchema, frame, 2 ** 20)
    if (message.kind === 'kv') layers.push(message.layer)
    return stalled ? new Promise(() => undefined) : Promise.resolve()
  }
  return { layers, link: { send } as unknown as Link }
}

function start() {
  let onEvent: OnEvent = () => undefined
  let server: RunServer | undefined
  const asked: Omit<SubscribeOptions, 'window'>[] = []
  const reported: WorkerEvent[] = []
  const compute: Partial<Compute> = {
    shape,
    prefill: (_assignment, _tokens, listener) => {
      onEvent = listener
      const ignored = (): void => undefined
      return { deliver: ignored, fetch: ignored, stop: ignored, cancel: ignored }
    },
  }
  const deps = {
    worker: 'w1',
    fingerprint: 'f'.repeat(64),
    compute,
    dialling: {
      subscribe: async (of: SubscribeOptions) => {
        asked.push(of)
        return { credit: () => undefined, end: () => undefined }
      },
    },
    listening: {
      open: (_run: string, opened: RunServer) => {
        server = opened
      },
      close: () => undefined,
    },
    metrics: new WorkerMetrics({ version: 'test', role: 'prefill', engine: 'reference' }),
    buffers: new BufferPool(),
    clock: realClock,
    log: createLog('test', 'silent'),
    report: (event: WorkerEvent) => reported.push(event),
  } as unknown as SessionDeps
  const session = new PrefillSession(assignment, Int32Array.of(1, 2, 3, 4), deps)
  const subscribe = (from: string, purpose: 'prefix' | 'handoff', link: Link): void =>
    server!.handle({ kind: 'subscribe', run: 'r', purpose, window: LAYERS, ticket: 't' }, from, link, new Uint8Array())
  const publish = (layer: number): void => {
    const bytes = new Uint8Array(4 * 2 * 4 * 4)
    const block = summed({ layer, start: 0, count: 4, dtype: 'f32' as const, bytes })
    onEvent({ kind: 'published', block, uses: layer < LAYERS - 1 ? ['prefix', 'handoff'] : ['handoff'] })
  }
  return { session, subscribe, publish, asked, reported }
}
const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
}

describe('a part in a ring of two', () => {
  it('hands over and asks elsewhere when the other one is lost, whose link takes nothing any more', async () => {
    const { session, subscribe, publish, asked } = start()
    const [neighbour, decode] = [linkOf(true), linkOf(false)]
    subscribe('w2', 'prefix', neighbour.link)
    subscribe('d1', 'handoff', decode.link)
    for (const layer of [0, 1, 2]) publish(layer)
    await settle()
    assert.deepEqual([neighbour.layers, decode.layers], [[0], [0]]) // KV for others goes before what is handed over
    session.lost('w2')
    await settle()
    assert.deepEqual([neighbour.layers, decode.layers], [[0], [0, 1, 2]])
    assert.deepEqual(
      asked.map(({ source, purpose }) => `${source} ${purpose}`),
      ['w2 prefix', 'd1 cached'],
    )
  })
})
