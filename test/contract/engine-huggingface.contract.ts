import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { Engine, Kv } from '../../worker/engine/engine.ts'
import { type Candidate, engineOf, isSlow, mostTokens, runsFew, titleOf } from '../support/candidate.ts'
import { type ExpectedCase, expectedCases } from '../support/hf-expected.ts'
import { argmax, logProbability, maxAbsDifference } from '../support/numbers.ts'
import { fixture } from '../support/paths.ts'
import { type Cutting, PlainRun } from '../support/plain-run.ts'

/** The references are printed with five decimals. */
const TOLERANCE = 5e-5

/** One by one, where calls are slow. */
const FEW_TOKENS = 64

/** A slow engine runs the first two. */
const CUTTINGS: readonly Cutting[] = [
  { chunkTokens: 256, blockTokens: 512 },
  { chunkTokens: 100, blockTokens: 37, order: (blocks) => blocks.toReversed() },
  { chunkTokens: 64, blockTokens: 1024 },
  // a ring's order: what was computed here first, then what others send
  { chunkTokens: 128, blockTokens: 128, order: (blocks) => [...blocks.slice(-1), ...blocks.slice(0, -1)] },
]

/** An engine agrees with Hugging Face transformers, however the prompt is cut. */
export function huggingFaceContract(name: Candidate, folder: string): void {
  describe(`the ${titleOf(name)} engine on ${folder}`, () => {
    let engine: Engine
    before(async () => {
      engine = await engineOf(name, fixture(folder))
    })
    after(() => engine.close())

    for (const expected of expectedCases(fixture(folder))) {
      const { length } = expected.ids
      if (length > mostTokens(name)) continue
      for (const cutting of isSlow(name) ? CUTTINGS.slice(0, 2) : CUTTINGS)
        test(`${length} tokens in chunks of ${cutting.chunkTokens} and blocks of ${cutting.blockTokens}`, async () => {
          const run = new PlainRun(engine, length, cutting)
          const logits = await run.feed(expected.ids)
          assert.ok(maxAbsDifference(logits, expected.last_logits) < TOLERANCE)
          await checkCaches(engine, run, expected)
        })

      if (runsFew(name) && length > FEW_TOKENS) continue
      test(`${length} tokens one by one, and what follows`, async () => {
        const run = new PlainRun(engine, length + 8, { chunkTokens: 1, blockTokens: length + 8 })
        const logits: Float32Array[] = []
        for (const id of expected.ids) logits.push(await run.feed([id], length))
        assert.ok(maxAbsDifference(logits.at(-1)!, expected.last_logits) < TOLERANCE)
        // where two logits are as near each other as rounding goes, either may win
        for (const [i, likeliest] of expected.argmax_per_position.entries())
          assert.ok(Math.max(...logits[i]!) - logits[i]![likeliest]! < TOLERANCE, `position ${i}`)
        if (expected.mean_nll !== null) {
          const nll = expected.ids.slice(1).reduce((sum, id, i) => sum - logProbability(logits[i]!, id), 0)
          assert.ok(Math.abs(nll / (length - 1) - expected.mean_nll) < TOLERANCE)
        }
        await checkGreedy(run, logits.at(-1)!, expected)
      })
    }
  })
}

async function checkCaches(engine: Engine, run: PlainRun, { ids, kv }: ExpectedCase): Promise<void> {
  for (const [layer, { k_last_position, v_last_position }] of Object.entries(kv)) {
    const block: Kv = run.caches[Number(layer)]!.at(-1)!
    const { bytes } = await engine.exportKv(block, ids.length - 1, 1, 'f32')
    assert.ok(maxAbsDifference(new Float32Array(bytes.buffer), [...k_last_position, ...v_last_position]) < TOLERANCE)
  }
}

async function checkGreedy(run: PlainRun, last: Float32Array, { greedy_next_8 }: ExpectedCase): Promise<void> {
  let logits = last
  const chosen: number[] = []
  while (chosen.length < greedy_next_8.length) {
    chosen.push(argmax(logits))
    if (chosen.length < greedy_next_8.length) logits = await run.feed(chosen.slice(-1))
  }
  assert.deepEqual(chosen, greedy_next_8)
}
