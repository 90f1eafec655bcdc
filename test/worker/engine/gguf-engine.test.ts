import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type ChatMessage, loadChatTemplate } from '../../../coordinator/tokenizer/chat-template.ts'
import { loadTokenizer } from '../../../coordinator/tokenizer/tokenizer.ts'
import { readEosTokens, readModelShape } from '../../../shared/model-folder.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { Engine } from '../../../worker/engine/engine.ts'
import { convertFolder } from '../../support/gguf/convert.ts'
import { expectedCases } from '../../support/hf-expected.ts'
import { argmax, maxAbsDifference } from '../../support/numbers.ts'
import { bundledModel, fixture, ggufFixtureNames } from '../../support/paths.ts'
import { PlainRun } from '../../support/plain-run.ts'

let folder: string
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'headrace-gguf-'))
})
after(() => rm(folder, { recursive: true }))

const CUTTING = { chunkTokens: 256, blockTokens: 512 }

describe('a fixture as a GGUF file of F32', () => {
  for (const name of ggufFixtureNames)
    test(`has the logits of ${name}`, async () => {
      const path = await convertFolder(fixture(name), join(folder, `${name}.gguf`))
      const shape = await readModelShape(path)
      // to a GGUF file a Mistral without a window is a Llama
      assert.deepEqual({ ...(await readModelShape(fixture(name))), architecture: shape.architecture }, shape)
      const engine = await createEngine('onnx', path, { threads: 1 })
      try {
        const cases = expectedCases(fixture(name)).filter(({ ids }) => ids.length <= shape.contextLength)
        for (const { ids, last_logits } of cases)
          assert.ok(maxAbsDifference(await new PlainRun(engine, ids.length, CUTTING).feed(ids), last_logits) < 1e-4)
      } finally {
        await engine.close()
      }
    })
})

interface Known {
  readonly messages: ChatMessage[]
  readonly dense: { readonly greedy_ids: number[] }
}

describe('the bundled model as a GGUF file', () => {
  const prompts: Known[] = readFileSync(fixture('prompts/prompts.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

  /** As much as may go otherwise by rounding: two of 32. */
  for (const [type, most] of [
    ['F16', 0],
    ['Q8_0', 2],
  ] as const)
    test(`of ${type} answers all but ${most} of ${prompts.length} prompts as it did`, async () => {
      const path = await convertFolder(bundledModel, join(folder, `bundled-${type}.gguf`), { type })
      const [tokenizer, template, ends] = [
        await loadTokenizer(path),
        await loadChatTemplate(path),
        await readEosTokens(path),
      ]
      const engine = await createEngine('onnx', path, { threads: 1 })
      try {
        let others = 0
        for (const { messages, dense } of prompts) {
          const answer = await greedy(engine, tokenizer.encode(template.render(messages)), ends)
          if (answer.join() !== dense.greedy_ids.join()) others += 1
        }
        assert.ok(others <= most, `${others} answers differ`)
      } finally {
        await engine.close()
      }
    })
})

async function greedy(engine: Engine, prompt: readonly number[], ends: readonly number[]): Promise<number[]> {
  const run = new PlainRun(engine, prompt.length + 64, CUTTING)
  const answer: number[] = []
  for (let next = prompt; answer.length < 64; next = answer.slice(-1)) {
    answer.push(argmax(await run.feed(next)))
    if (ends.includes(answer.at(-1)!)) break
  }
  return answer
}
