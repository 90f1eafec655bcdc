import { readFile } from 'node:fs/promises'
import { type ChatMessage, loadChatTemplate } from '../../../coordinator/tokenizer/chat-template.ts'
import { loadTokenizer } from '../../../coordinator/tokenizer/tokenizer.ts'
import type { Weights } from '../../../shared/engine-name.ts'
import { abortError } from '../../../shared/errors.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { Engine } from '../../../worker/engine/engine.ts'
import { PlainRun } from '../../support/plain-run.ts'
import { divergence, largest, topTenError } from './numbers.ts'
import { median, sum } from './statistics.ts'

/** What weights that are not float32 do to the answers of a real model. */
export interface Quality {
  readonly weights: Weights
  readonly prompts: number
  /** At the last position of each prompt, over float32's ten largest logits. */
  readonly worstLogitError: number
  readonly medianLogitError: number
  /** In nats, over the last position of each prompt and every position of its reference answer. */
  readonly meanDivergence: number
  readonly worstDivergence: number
  readonly positions: number
  /** Prompts whose greedy answer is the reference's, token by token. */
  readonly exactAnswers: number
  /** The same with float32 weights. */
  readonly exactAnswersF32: number
}

interface Known {
  readonly messages: readonly ChatMessage[]
  readonly dense: { readonly greedy_ids: readonly number[] }
}

/**
 * Asks `prompts` (a file of one JSON object a line, as the fixtures have it) of the model in `folder` with both kinds of
 * weights. Both are led along the reference answer, so that every position is the same question; an answer is exact if
 * its next token is the likeliest everywhere, which is what decoding freely would find too.
 */
export async function compareQuality(
  of: { folder: string; prompts: string; weights: Weights },
  signal: AbortSignal,
): Promise<Quality> {
  const reference = await createEngine('onnx', of.folder, { threads: 1, weights: 'f32' })
  try {
    const found = await createEngine('onnx', of.folder, { threads: 1, weights: of.weights })
    try {
      return await compareEngines(reference, found, of, signal)
    } finally {
      await found.close()
    }
  } finally {
    await reference.close()
  }
}

async function compareEngines(
  reference: Engine,
  found: Engine,
  of: { folder: string; prompts: string; weights: Weights },
  signal: AbortSignal,
): Promise<Quality> {
  const [tokenizer, template] = [await loadTokenizer(of.folder), await loadChatTemplate(of.folder)]
  const lines = (await readFile(of.prompts, 'utf8')).trim().split('\n')
  const errors: number[] = []
  const divergences: number[] = []
  const exact = { reference: 0, found: 0 }
  for (const line of lines) {
    if (signal.aborted) throw abortError(signal)
    const { messages, dense }: Known = JSON.parse(line)
    const prompt = tokenizer.encode(template.render(messages))
    const logits = await logitsAlong(reference, prompt, dense.greedy_ids)
    const others = await logitsAlong(found, prompt, dense.greedy_ids)
    errors.push(topTenError(logits[0]!, others[0]!))
    divergences.push(...logits.map((one, i) => divergence(one, others[i]!)))
    if (dense.greedy_ids.every((id, i) => largest(logits[i]!) === id)) exact.reference += 1
    if (dense.greedy_ids.every((id, i) => largest(others[i]!) === id)) exact.found += 1
  }
  return {
    weights: of.weights,
    prompts: lines.length,
    worstLogitError: Math.max(...errors),
    medianLogitError: median(errors),
    meanDivergence: sum(divergences) / divergences.length,
    worstDivergence: Math.max(...divergences),
    positions: divergences.length,
    exactAnswers: exact.found,
    exactAnswersF32: exact.reference,
  }
}

/** The logits before each token of `answer`. */
async function logitsAlong(
  engine: Engine,
  prompt: readonly number[],
  answer: readonly number[],
): Promise<Float32Array[]> {
  const run = new PlainRun(engine, prompt.length + answer.length, { chunkTokens: engine.chunkTokens, blockTokens: 512 })
  const logits = [await run.feed(prompt)]
  for (const token of answer.slice(0, -1)) logits.push(await run.feed([token]))
  engine.release(...run.caches.flat())
  engine.trim()
  return logits
}
