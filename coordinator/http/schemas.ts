import { z } from 'zod'
import { STRATEGIES } from '../../shared/plan.ts'
import { sampling } from '../../shared/protocol/run-types.ts'

/** What clients send. Unknown fields are ignored, `null` is an absent value, limits are those of the protocol. */

const MAX_STOPS = 16
const MAX_STOP_CHARACTERS = 512
const MAX_MESSAGES = 10_000

/** A model may be driven by clients that send every field they know, `null` where they have no value. */
const optional = <T extends z.ZodType>(schema: T) => schema.nullish().transform((value) => value ?? undefined)

const { temperature, topP, topK } = sampling.shape
const tokenCount = z.number().int().min(1)
const workers = z.number().int().min(1).max(64)
const tokenIds = z.array(z.number().int().min(0).max(0x7fffffff))

/** Half of a surrogate pair can be no part of a text, and cutting there would break a character. */
const stopString = z
  .string()
  .min(1)
  .max(MAX_STOP_CHARACTERS)
  .refine((text) => !/\p{Surrogate}/u.test(text), 'not well-formed text')

const common = {
  model: optional(z.string()),
  max_tokens: optional(tokenCount),
  temperature: optional(temperature),
  top_p: optional(topP),
  /** -1 is how vLLM's and llama.cpp's clients say "all". */
  top_k: optional(z.union([z.literal(-1).transform(() => 0), topK])),
  /** OpenAI allows any integer; what counts is its lowest 32 bits. */
  seed: optional(z.int().transform((seed) => Number(BigInt.asUintN(32, BigInt(seed))))),
  stop: optional(z.union([stopString.transform((text) => [text]), z.array(stopString).max(MAX_STOPS)])),
  stream: optional(z.boolean()),
  stream_options: optional(z.object({ include_usage: optional(z.boolean()) })),
  return_progress: optional(z.boolean()),
  /** Where the benchmark tools of vLLM and llama.cpp put it; ours is `headrace.ignore_eos`. */
  ignore_eos: optional(z.boolean()),
  headrace: optional(
    z
      .object({
        strategy: optional(z.enum(STRATEGIES)),
        workers: optional(workers),
        /** Tokens of each worker of the plan, in its order, in proportion to these. */
        shares: optional(z.array(z.number().min(0.001).max(1000)).min(1).max(64)),
        ignore_eos: optional(z.boolean()),
      })
      .refine(({ workers: count, shares }) => shares === undefined || (count ?? shares.length) === shares.length, {
        error: 'needs one share for each of `workers`',
        path: ['shares'],
      }),
  ),
}

const textPart = z.object({ type: z.literal('text'), text: z.string() }).transform((part) => part.text)
/** Parts are joined as vLLM joins them for templates that expect a string. */
const content = z.union([z.string(), z.array(textPart).transform((parts) => parts.join('\n'))], {
  error: 'must be a string or an array of text parts',
})

const message = z.union(
  [
    z.object({ role: z.enum(['system', 'user', 'tool']), content }),
    /** OpenAI's newer name for the system's role; templates know the older. */
    z.object({ role: z.literal('developer').transform(() => 'system' as const), content }),
    z.object({ role: z.literal('assistant'), content: content.nullish().transform((text) => text ?? '') }),
  ],
  {
    error: 'needs a role (system, developer, user, assistant or tool) and content: a string or an array of text parts',
  },
)
const messages = z.array(message).max(MAX_MESSAGES)

export const chatSchema = z
  .object({
    ...common,
    messages,
    max_completion_tokens: optional(tokenCount),
    logprobs: optional(z.boolean()),
    top_logprobs: optional(z.number().int().min(0).max(20)),
  })
  .refine((body) => body.top_logprobs === undefined || body.logprobs === true, {
    error: 'needs `logprobs: true`',
    path: ['top_logprobs'],
  })

/** A batch of one is taken for what it holds. */
const single = <T extends z.ZodType>(schema: T) =>
  z
    .array(schema)
    .length(1)
    .transform((batch) => batch[0] as z.output<T>)

export const completionSchema = z.object({
  ...common,
  prompt: z.union([z.string(), tokenIds, single(z.string()), single(tokenIds)], {
    error: 'must be one string or one array of token ids',
  }),
  echo: optional(z.boolean()),
  logprobs: optional(z.number().int().min(0).max(20)),
})
export type CompletionBody = z.infer<typeof completionSchema>
export type CommonBody = Pick<CompletionBody, keyof typeof common>

export const tokenizeSchema = z
  .object({ content: optional(z.string()), prompt: optional(z.string()), messages: optional(messages) })
  .refine((body) => Object.values(body).filter((value) => value !== undefined).length === 1, {
    error: 'exactly one of `content`, `prompt` and `messages` is needed',
  })

export const detokenizeSchema = z.object({ tokens: tokenIds })

const queryCount = z
  .string()
  .regex(/^\d{1,9}$/, 'must be a whole number')
  .transform(Number)

export const planQuerySchema = z.object({
  prompt_tokens: queryCount.pipe(tokenCount),
  strategy: z.enum(STRATEGIES).optional(),
  workers: queryCount.pipe(workers).optional(),
})

export const readyQuerySchema = z.object({ workers: queryCount.optional() })
