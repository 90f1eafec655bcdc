import { readFile } from 'node:fs/promises'
import { type ChatMessage, loadChatTemplate } from '../../../coordinator/tokenizer/chat-template.ts'
import { loadTokenizer } from '../../../coordinator/tokenizer/tokenizer.ts'
import type { Weights } from '../../../shared/engine-name.ts'
import { abortError } from '../../../shared/errors.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { Engine } from '../../../worker/engine/engine.ts'
import { logProbability } from '../../support/numbers.ts'
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
  /** Of the prompts' own texts; absent if none was scored. */
  readonly perplexity?: number
}

export interface QualityQuestion {
  readonly folder: string
  /** A file of one JSON object a line, as the fixtures have it. */
  readonly prompts: string
  /** Kinds to judge. */
  readonly kinds: readonly Weights[]
  /** Only so many of the prompts, the shortest first. */
  readonly most?: number
  /** Tokens of the prompts' texts that are scored for perplexity, at most. */
  readonly scored?: number
}

interface Known {
  readonly messages: readonly ChatMessage[]
  readonly prompt_tokens: number
  readonly dense: { readonly greedy_ids: readonly number[] }
}

interface Question {
  readonly prompt: readonly number[]
  readonly answer: readonly number[]
}

/**
 * Asks prompts of the model in `folder` with float32 weights and with each other kind. All are led along the reference
 * answer, so that every position is the same question; an answer is exact if its next token is the likeliest everywhere,
 * which is what decoding freely would find too. Each engine is that of a decode node, which multiplies single tokens in a
 * way of its own.
 */
export async function compareQuality(of: QualityQuestion, signal: AbortSignal): Promise<Quality[]> {
  const questions = await readQuestions(of)
  const reference = await createEngine('onnx', of.folder, { threads: 1, weights: 'f32', decodes: true })
  try {
    const expected = []
    for (const { prompt, answer } of questions) expected.push(await logitsAlong(reference, prompt, answer, signal))
    const found: Quality[] = []
    for (const weights of of.kinds) found.push(await judge(weights, questions, expected, of, signal))
    return found
  } finally {
    await reference.close()
  }
}

async function readQuestions({ folder, prompts, most = Infinity }: QualityQuestion): Promise<Question[]> {
  const [tokenizer, template] = [await loadTokenizer(folder), await loadChatTemplate(folder)]
  const lines = (await readFile(prompts, 'utf8')).trim().split('\n')
  const known = lines.map((line): Known => JSON.parse(line)).sort((a, b) => a.prompt_tokens - b.prompt_tokens)
  return known
    .slice(0, most)
    .map(({ messages, dense }) => ({ prompt: tokenizer.encode(template.render(messages)), answer: dense.greedy_ids }))
}

async function judge(
  weights: Weights,
  questions: readonly Question[],
  expected: readonly Float32Array[][],
  { folder, scored = 0 }: QualityQuestion,
  signal: AbortSignal,
): Promise<Quality> {
  const engine = await createEngine('onnx', folder, { threads: 1, weights, decodes: true })
  try {
    const errors: number[] = []
    const divergences: number[] = []
    const exact = { reference: 0, found: 0 }
    for (const [i, { prompt, answer }] of questions.entries()) {
      const [logits, others] = [expected[i]!, await logitsAlong(engine, prompt, answer, signal)]
      errors.push(topTenError(logits[0]!, others[0]!))
      divergences.push(...logits.map((one, at) => divergence(one, others[at]!)))
      if (answer.every((id, at) => largest(logits[at]!) === id)) exact.reference += 1
      if (answer.every((id, at) => largest(others[at]!) === id)) exact.found += 1
    }
    return {
      weights,
      prompts: questions.length,
      worstLogitError: Math.max(...errors),
      medianLogitError: median(errors),
      meanDivergence: sum(divergences) / divergences.length,
      worstDivergence: Math.max(...divergences),
      positions: divergences.length,
      exactAnswers: exact.found,
      exactAnswersF32: exact.reference,
      ...(scored > 0 && { perplexity: await perplexity(engine, questions, scored, signal) }),
    }
  } finally {
    await engine.close()
  }
}

/** Tokens before the first that is scored in a prompt, and the most that are scored of it. */
const CONTEXT_TOKENS = 256
const SCORED_TOKENS = 512

/** exp of the mean of -log p of the next token, over texts of the longest prompts: each token is given, not chosen. */
async function perplexity(
  engine: Engine,
  questions: readonly Question[],
  scored: number,
  signal: AbortSignal,
): Promise<number> {
  const surprises: number[] = []
  for (const { prompt } of questions.toReversed()) {
    const count = Math.min(SCORED_TOKENS, scored - surprises.length, prompt.length - CONTEXT_TOKENS)
    if (count <= 0) continue
    const given = prompt.slice(CONTEXT_TOKENS, CONTEXT_TOKENS + count)
    const logits = await logitsAlong(engine, prompt.slice(0, CONTEXT_TOKENS), given, signal)
    surprises.push(...given.map((id, at) => -logProbability(logits[at]!, id)))
  }
  return Math.exp(sum(surprises) / surprises.length)
}

/** The logits before each token of `answer`. */
async function logitsAlong(
  engine: Engine,
  prompt: readonly number[],
  answer: readonly number[],
  signal: AbortSignal,
): Promise<Float32Array[]> {
  const run = new PlainRun(engine, prompt.length + answer.length, { chunkTokens: engine.chunkTokens, blockTokens: 512 })
  const logits = [await run.feed(prompt)]
  for (const token of answer.slice(0, -1)) {
    if (signal.aborted) throw abortError(signal)
    logits.push(await run.feed([token]))
  }
  engine.release(...run.caches.flat())
  engine.trim()
  return logits
}
