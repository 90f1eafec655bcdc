import assert from 'node:assert/strict'
import { pino } from 'pino'
import type { z } from 'zod'
import type { ServerDeps } from '../../../coordinator/http/deps.ts'
import { parseWith } from '../../../coordinator/http/errors.ts'
import { KeptAnswers } from '../../../coordinator/http/kept-answers.ts'
import {
  chatSchema,
  completionSchema,
  detokenizeSchema,
  planQuerySchema,
  tokenizeSchema,
} from '../../../coordinator/http/schemas.ts'
import { buildServer } from '../../../coordinator/http/server.ts'
import { refuseUnsupported } from '../../../coordinator/http/unsupported.ts'
import { createCoordinatorMetrics } from '../../../coordinator/metrics.ts'
import { loadChatTemplate } from '../../../coordinator/tokenizer/chat-template.ts'
import { loadTokenizer } from '../../../coordinator/tokenizer/tokenizer.ts'
import { RunStore } from '../../../coordinator/trace/store.ts'
import { ERRORS, type ErrorCode, isErrorCode } from '../../../shared/errors.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { bundledModel } from '../../support/paths.ts'
import { ScriptedRuns, writes } from '../../support/scripted-runs.ts'
import { STRANGERS } from '../damage.ts'
import type { Dice } from '../dice.ts'
import { hostileJson } from '../json.ts'
import { joined, outcome, parted, type Target } from '../target.ts'

/** What clients send: the schemas of the bodies, and the whole of the API behind fastify's own parsing. */

const REFUSED: ReadonlySet<ErrorCode> = new Set(['invalid_request'] as const)

const messages = [
  { role: 'system', content: 'Answer.' },
  { role: 'developer', content: [{ type: 'text', text: 'Shortly.' }] },
  { role: 'user', content: 'Why is the sky blue?' },
  { role: 'assistant', content: null },
]
const common = {
  model: 'logbook-7m',
  max_tokens: 4,
  temperature: 0.5,
  top_p: 0.9,
  top_k: 40,
  seed: 7,
  stop: ['\n\n', 'END'],
  stream: true,
  stream_options: { include_usage: true },
  return_progress: true,
  ignore_eos: false,
  headrace: { strategy: 'chain', workers: 2, shares: [1, 2], ignore_eos: true },
  n: 1,
  response_format: { type: 'text' },
  logit_bias: {},
}

/** A route, the schema of its body, and bodies that it takes. */
const ROUTES: readonly { readonly path: string; readonly schema: z.ZodType; readonly bodies: readonly object[] }[] = [
  {
    path: '/v1/chat/completions',
    schema: chatSchema,
    bodies: [
      { ...common, messages, max_completion_tokens: 3, logprobs: true, top_logprobs: 2 },
      { messages: messages.slice(2, 3) },
    ],
  },
  {
    path: '/v1/completions',
    schema: completionSchema,
    bodies: [
      { ...common, prompt: 'Once upon a time' },
      { ...common, prompt: [[5, 6, 7]], logprobs: 3, stop: null },
      { prompt: ['and then'], echo: true, max_tokens: 2 },
    ],
  },
  { path: '/tokenize', schema: tokenizeSchema, bodies: [{ content: 'A line.\n' }, { prompt: 'p' }, { messages }] },
  { path: '/detokenize', schema: detokenizeSchema, bodies: [{ tokens: [5, 6, 4093] }] },
  { path: '/v1/plan', schema: planQuerySchema, bodies: [{ prompt_tokens: '700', strategy: 'ring', workers: '2' }] },
]

/** The number of the route, then the body. */
function input(dice: Dice): Uint8Array {
  const route = dice.below(ROUTES.length)
  return joined([Uint8Array.of(route), hostileJson(dice, dice.oneOf(ROUTES[route]!.bodies), STRANGERS)])
}

function read(bytes: Uint8Array): { route: (typeof ROUTES)[number]; body: string } {
  const [route, body] = parted(bytes)
  return { route: ROUTES[(route?.[0] ?? 0) % ROUTES.length]!, body: Buffer.from(body ?? []).toString() }
}

export const bodies: Target = {
  name: 'bodies',
  weight: 14,
  open: async () => ({
    input,
    take(bytes) {
      const { route, body } = read(bytes)
      const value = parsed(body)
      if (value === undefined) return 'invalid_json'
      return outcome(REFUSED, () => {
        refuseUnsupported(value)
        parseWith(route.schema, value)
      })
    },
  }),
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // fastify says so; the target `api` goes through it
  }
}

export const api: Target = {
  name: 'api',
  weight: 3,
  open: async () => {
    const app = await openApi()
    return {
      input,
      async take(bytes) {
        const { route, body } = read(bytes)
        const answer = await app.inject(
          route.path === '/v1/plan'
            ? { method: 'GET', url: route.path, query: queryOf(body) }
            : { method: 'POST', url: route.path, headers: { 'content-type': 'application/json' }, payload: body },
        )
        return answer.statusCode === 200 ? 'ok' : refusalOf(answer.statusCode, answer.body)
      },
      close: () => app.close(),
    }
  },
}

/** The API over runs that write three tokens, with the bundled model's own tokenizer and template. */
export async function openApi(changes: Partial<ServerDeps> = {}) {
  const clock = new ManualClock()
  const metrics = createCoordinatorMetrics({ version: '0.0.0', model: 'logbook-7m' })
  const facts = { name: 'logbook-7m', layers: 8, contextLength: 2048, vocab: 4096, params: 1, bytes: 2, eosTokens: [4] }
  return buildServer({
    runs: new ScriptedRuns(writes([5, 6, 7])),
    tokenizer: await loadTokenizer(bundledModel),
    template: await loadChatTemplate(bundledModel),
    model: { ...facts, fingerprint: 'ab'.repeat(32) },
    store: new RunStore(),
    metrics,
    kept: new KeptAnswers(clock),
    log: pino({ level: 'silent' }),
    clock,
    ...changes,
  })
}

/** Every refusal is OpenAI's error object with a code of the list, the status that belongs to it, and no defect. */
export function refusalOf(status: number, body: string): string {
  const { error } = JSON.parse(body) as { error: { code: string; message: string } }
  assert.ok(isErrorCode(error.code), `no code: ${body.slice(0, 200)}`)
  assert.equal(ERRORS[error.code].status, status)
  assert.ok(status < 500, `a defect: ${body.slice(0, 200)}`)
  return error.code
}

function queryOf(body: string): Record<string, string> {
  const value = parsed(body)
  const entries = typeof value === 'object' && value !== null ? Object.entries(value) : []
  return Object.fromEntries(entries.map(([key, held]) => [key, JSON.stringify(held).replaceAll('"', '').slice(0, 200)]))
}
