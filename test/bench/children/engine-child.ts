import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { Engine, EngineOptions } from '../../../worker/engine/engine.ts'
import { collectGarbage } from '../../../worker/idle.ts'
import { seededRandom } from '../../support/random.ts'
import { decodeStep, prefill } from '../harness/engine-run.ts'
import { largest } from '../harness/numbers.ts'
import { forgetPeak, memoryOf } from '../harness/proc.ts'
import type { OurDecode, OurOpened, OurPrefill } from '../harness/rivals.ts'
import { type TimedEngine, timedEngine } from '../harness/timed-engine.ts'
import { serve } from './serve.ts'

/** Our engine, as a process of its own. */

let opened: TimedEngine | undefined

serve({
  async open({ folder, ...options }: EngineOptions & { folder: string }): Promise<OurOpened> {
    const started = performance.now()
    await opened?.engine.close()
    opened = timedEngine(await createEngine('onnx', folder, options))
    return { ms: performance.now() - started }
  },

  /** Gives back what is not needed, so that what is left can be looked at. */
  async settle(): Promise<object> {
    opened?.engine.trim()
    collectGarbage()
    forgetPeak(process.pid)
    return {}
  },

  /** A prompt to the logits of its last token; without a head, to what they are made of. */
  async prefill({ tokens, head = true }: { tokens: number[]; head?: boolean }): Promise<OurPrefill> {
    const timed = needed()
    const ids = Int32Array.from(tokens)
    timed.reset()
    const before = process.cpuUsage()
    const started = performance.now()
    const { logits, lastRows } = await prefill(timed.engine, ids, head)
    const ms = performance.now() - started
    const { user, system } = process.cpuUsage(before)
    timed.engine.trim()
    const { peakBytes } = memoryOf(process.pid)
    return { ms, cpuMs: (user + system) / 1000, seconds: timed.spent(), lastRows, token: largest(logits), peakBytes }
  },

  /** Generates `count` tokens after a cache of `context` random keys and values, and one more before, which is not timed. */
  async decode({ context, count }: { context: number; count: number }): Promise<OurDecode> {
    const timed = needed()
    const { engine } = timed
    const kv_layers = await randomKv(engine, context, context + count + 1)
    const ms: number[] = []
    let cpu = process.cpuUsage()
    let token = 1
    for (let i = 0; i <= count; i++) {
      if (i === 1) {
        timed.reset()
        cpu = process.cpuUsage()
      }
      const started = performance.now()
      token = largest(await decodeStep(engine, kv_layers, token, context + i))
      ms.push(performance.now() - started)
    }
    const { user, system } = process.cpuUsage(cpu)
    engine.release(...kv_layers)
    engine.trim()
    return { ms: ms.slice(1), cpuMs: (user + system) / 1000, seconds: timed.spent() }
  },
})

function needed(): TimedEngine {
  if (opened === undefined) throw new Error('nothing is open')
  return opened
}

/** Decoding is as fast whatever the cache says, so a long prompt need not be computed first. */
async function randomKv(engine: Engine, filled: number, capacity: number) {
  const { layers, kvHeads, headDim } = engine.shape
  const random = seededRandom(1)
  const block = Float32Array.from({ length: 2 * kvHeads * BLOCK_TOKENS * headDim }, () => random() * 2 - 1)
  const kv_layers = Array.from({ length: layers }, () => engine.createKv(0, capacity))
  for (const kv of kv_layers)
    for (let start = 0; start < filled; start += BLOCK_TOKENS) {
      const count = Math.min(BLOCK_TOKENS, filled - start)
      const bytes = new Uint8Array(block.buffer, 0, 2 * kvHeads * count * headDim * 4)
      await engine.importKv(kv, start, count, { dtype: 'f32', bytes })
    }
  return kv_layers
}

const BLOCK_TOKENS = 512
