import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { PrefillAssignment } from '../../../shared/protocol/control.ts'
import { decodeTraces } from '../../../shared/trace.ts'
import { ComputeHost } from '../../../worker/compute/host.ts'
import type { ComputeEvent } from '../../../worker/compute/messages.ts'
import type { Engine } from '../../../worker/engine/engine.ts'
import { summed } from '../../../worker/kv/block.ts'
import { ManualClock } from '../../support/manual-clock.ts'

/** Time passes nowhere but in the engine's arithmetic and while a block is on its way. */

const LAYERS = 3
const SECONDS = { project: 1, attend: 2, mix: 3, wait: 10 }

const assignment: PrefillAssignment = {
  kind: 'prefill',
  run: 'r',
  strategy: 'chain',
  rank: 1,
  workers: [0, 1].map((rank) => ({
    worker: `w${rank}`,
    epoch: 1,
    url: '',
    spans: [{ start: rank * 4, end: rank * 4 + 4 }],
    prefixWire: 'f32',
    handoffWire: 'f32',
  })),
  decode: 'd',
  decodeUrl: '',
  layers: { from: 0, to: LAYERS },
  blockTokens: 4,
  promptTokens: 9,
  tickets: [],
}

function timedEngine(clock: ManualClock): Engine {
  const after = async <T>(seconds: number, result: T): Promise<T> => {
    clock.advance(seconds)
    return result
  }
  return {
    name: 'reference',
    shape: {
      layers: LAYERS,
      layerShapes: Array.from({ length: LAYERS }, () => ({ experts: false })),
      contextLength: 64,
      vocab: 8,
      kvHeads: 1,
      headDim: 2,
    } as unknown as Engine['shape'],
    chunkTokens: 4,
    embed: async ({ length }) => ({ tokens: length }),
    project: (_layer, { tokens }, start) => after(SECONDS.project, { start, tokens }),
    attend: () => after(SECONDS.attend, undefined),
    mix: (_layer, x) => after(SECONDS.mix, x),
    step: async (x) => x,
    logits: async () => new Float32Array(1),
    lastRow: () => ({ tokens: 1 }),
    accumulator: ({ tokens }) => ({ tokens }),
    createKv: (start, capacity) => ({ start, capacity }),
    exportKv: async () => ({ dtype: 'f32', bytes: new Uint8Array(8) }),
    importKv: async () => undefined,
    release: () => undefined,
    trim: () => undefined,
    close: async () => undefined,
  }
}

describe('the trace of a layer loop', () => {
  it('covers it without a gap and without an overlap', async () => {
    const clock = new ManualClock()
    let finished: Extract<ComputeEvent, { kind: 'finished' }> | undefined
    const turns = async (): Promise<void> => {
      for (let turn = 0; turn < 100; turn++) await new Promise((resolve) => setImmediate(resolve))
    }
    const host = new ComputeHost({
      engine: timedEngine(clock),
      clock,
      readCpu: () => undefined,
      movingCost: async () => 0,
      kvBudgetBytes: 0,
      post: (reply) => {
        if (reply.kind === 'run' && reply.event.kind === 'finished') finished = reply.event
      },
      yieldTurn: () => new Promise((resolve) => setImmediate(resolve)),
      collectGarbage: () => undefined,
    })
    host.handle({ kind: 'prefill', assignment, tokens: new Int32Array(4) })
    for (let layer = 0; layer < LAYERS - 1; layer++) {
      await turns()
      clock.advance(SECONDS.wait)
      const bytes = new Uint8Array(8)
      host.handle({
        kind: 'deliver',
        run: 'r',
        block: summed({ id: 0, layer, start: 0, count: 4, dtype: 'f32', bytes }),
      })
    }
    await turns()

    assert.ok(finished !== undefined)
    const spans = decodeTraces(finished.trace)
    const layer = ['project', 'attend', 'wait', 'attend', 'mix'] as const
    const expected = [...[0, 1].flatMap((at) => layer.map((kind) => [kind, at] as const)), ['project', 2] as const]
    let at = 0
    for (const [i, [kind, of]] of expected.entries()) {
      assert.deepEqual(spans[i], { kind, layer: of, start: at, end: at + SECONDS[kind] })
      at += SECONDS[kind]
    }
    assert.equal(spans.length, expected.length)
    assert.equal(finished.computeSeconds + finished.waitSeconds, at)
    assert.equal(finished.waitSeconds, 2 * SECONDS.wait)
    assert.equal(finished.attendSeconds, 4 * SECONDS.attend)
    assert.equal(finished.takeInSeconds, 0) // on this clock, nothing but the layers' own arithmetic takes time
  })
})

describe('a host of runs', () => {
  it('gives back what loading and timing have left behind, once nothing runs', async () => {
    const clock = new ManualClock()
    let collected = 0
    let calibrated = (): void => undefined
    const done = new Promise<void>((resolve) => {
      calibrated = resolve
    })
    const host = new ComputeHost({
      engine: timedEngine(clock),
      clock,
      readCpu: () => undefined,
      movingCost: async () => 0,
      kvBudgetBytes: 0,
      post: ({ kind }) => {
        if (kind === 'calibrated') calibrated()
      },
      yieldTurn: async () => undefined,
      collectGarbage: () => {
        collected++
      },
    })
    host.handle({ kind: 'calibrate' })
    await done
    assert.equal(collected, 0)
    clock.advance(1)
    await new Promise((resolve) => setImmediate(resolve))
    assert.equal(collected, 1)
  })
})
