import { z } from 'zod'

/** Values that both a message and the coordinator's answer carry. One schema gives the check and the type. */

export const sampling = z.strictObject({
  /** 0 is greedy: the largest logit, the smallest id among equals. */
  temperature: z.number().min(0).max(100),
  topP: z.number().gt(0).max(1),
  /** 0 keeps all. */
  topK: z.number().int().min(0),
  /** Unsigned 32-bit. A draw depends on (seed, position) alone, never on what was drawn before. */
  seed: z.number().int().min(0).max(0xffffffff),
  /** How many alternatives to report beside each token's log-probability; absent reports none at all. */
  logprobs: z.number().int().min(0).max(20).optional(),
})
export type Sampling = Readonly<z.infer<typeof sampling>>

/** Natural-log probabilities of the model itself: before temperature, top-k and top-p. */
export const tokenLogprob = z.strictObject({
  logprob: z.number(),
  top: z.array(z.strictObject({ token: z.number().int().min(0), logprob: z.number() })).max(20),
})
export type TokenLogprob = Readonly<z.infer<typeof tokenLogprob>>

export const finishReason = z.enum(['stop', 'length'])
export type FinishReason = z.infer<typeof finishReason>

const seconds = z.number().min(0)
const count = z.number().int().min(0)

/** Where one worker's time of a run went. `sent` and `received` are payload bytes per peer. */
export const workerReport = z.strictObject({
  worker: z.string(),
  role: z.enum(['prefill', 'decode']),
  tokens: count,
  /** Of the prompt; an answer's tokens are not counted. */
  computeSeconds: seconds,
  /** Of computeSeconds: spent in attention. */
  attendSeconds: seconds,
  /** Of computeSeconds: no part of a layer's own arithmetic, but taking in what others made. Absent: not known. */
  takeInSeconds: seconds.optional(),
  /** Of computeSeconds: sockets had the core. Absent: not known. */
  movingSeconds: seconds.optional(),
  /** Compute stood still because a KV block had not arrived. */
  waitSeconds: seconds,
  /** A frame was being handed to the operating system; runs beside compute. */
  sendSeconds: seconds,
  sent: z.array(z.strictObject({ to: z.string(), bytes: count })).max(64),
})
export type WorkerReport = Readonly<z.infer<typeof workerReport>>
