import { z } from 'zod'
import { STRATEGIES, WIRES } from '../plan.ts'
import { PRECISIONS } from '../precision.ts'
import { denyListSchema } from '../security/deny-list.ts'
import { flatSpans } from './flat-spans.ts'
import { finishReason, sampling, tokenLogprob, workerReport } from './run-types.ts'
import { heldTicketsSchema, ticketRuleSchema, ticketSchema } from './tickets.ts'

/** Messages on the link that a worker dials to the coordinator. Commands are imperative, events are past tense. */

/** Raised whenever a message changes its meaning; both sides must have the same. */
export const PROTOCOL_VERSION = 7

const text = z.string().max(512)
const name = z.string().min(1).max(64)
const count = z.number().int().min(0)
const fingerprint = z.string().length(64)

/**
 * Coefficients of a worker's cost per layer, in seconds: o + a n + b n (P + n/2) for n tokens after P (DESIGN 6). e is the
 * part of a that attention takes: half of what a chunk's own keys cost is thrown away by the mask, and its softmax begins
 * and ends once, however few keys it sees. c is for every token whose K and V others made: to check them and put them in
 * place, and s for every token whose K and V enter or leave, where sockets take that from arithmetic.
 */
const seconds = z.number().min(0)
const costSchema = z.strictObject({
  o: seconds,
  a: seconds,
  b: seconds,
  e: seconds.optional(),
  c: seconds.optional(),
  s: seconds.optional(),
})
export type Cost = Readonly<z.infer<typeof costSchema>>

export const roleSchema = z.enum(['prefill', 'decode'])
export type Role = z.infer<typeof roleSchema>

/**
 * One host of a run, in the order of the chain or ring; `url` is where its KV can be fetched, `prefixWire` and
 * `handoffWire` the precision of its blocks on the way to later workers and to the decode node. `epoch` counts the times
 * that workers have joined: one that was given up and comes back is another member.
 */
const wire = z.enum(WIRES)
const runWorker = z.strictObject({
  worker: name,
  epoch: count,
  url: text,
  spans: flatSpans,
  prefixWire: wire,
  handoffWire: wire,
})
export type RunWorker = Readonly<z.infer<typeof runWorker>>

/** Layers `[from, to)`. */
const layers = z.strictObject({ from: count, to: z.number().int().min(1) }).refine(({ from, to }) => from < to)
export type LayerRange = Readonly<z.infer<typeof layers>>

/**
 * The worker at `rank` computes its spans of a prompt of `promptTokens`, and hands over the KV of `layers`. What does not
 * come from the worker before it, it finds at the decode node. A repair is the same, of the spans that somebody did not
 * finish: a chain of two, of which the first is the decode node. Payload: its token ids, int32 little-endian, in ascending
 * position.
 */
const prefill = z.strictObject({
  kind: z.literal('prefill'),
  run: name,
  strategy: z.enum(STRATEGIES),
  rank: count,
  workers: z.array(runWorker).min(1).max(64),
  decode: name,
  decodeUrl: text,
  blockTokens: z.number().int().min(1),
  promptTokens: z.number().int().min(1),
  layers,
  tickets: heldTicketsSchema,
})
export type PrefillAssignment = Readonly<z.infer<typeof prefill>>

/**
 * Blocks of `worker` that are computed again before the first token, by where they start. How far K and V of a head may
 * be from what they should be, in relation to their norm: in the first layer, and in any other.
 */
const blockCheck = z.strictObject({
  worker: name,
  starts: z.array(count).min(1).max(4096),
  first: z.number().gt(0),
  deeper: z.number().gt(0),
})
export type BlockCheck = Readonly<z.infer<typeof blockCheck>>

/**
 * The KV of the prompt outlives the run for a while, under this name. `resume`: it is there already, from an earlier run, so
 * that nothing of the prompt is left to compute.
 */
const keeping = z.strictObject({ name: fingerprint, resume: z.boolean() })

/**
 * The decode node fetches every block, computes positions `[prefillTokens, promptTokens)` itself, samples. Payload: the
 * ids of these tokens, int32 little-endian, then those of the blocks that are to be checked, in ascending position.
 */
const decode = z.strictObject({
  kind: z.literal('decode'),
  run: name,
  /** Of the decode node itself. */
  epoch: count,
  workers: z.array(runWorker).max(64),
  blockTokens: z.number().int().min(1),
  prefillTokens: count,
  promptTokens: z.number().int().min(1),
  maxTokens: z.number().int().min(1),
  stopTokens: z.array(count).max(64),
  sampling,
  wantLogits: z.boolean(),
  checks: z.array(blockCheck).max(64),
  keep: keeping.optional(),
  tickets: heldTicketsSchema,
})
export type DecodeAssignment = Readonly<z.infer<typeof decode>>

/**
 * To the decode node: what `of` does not finish of the run's KV is made by `by`, who serves it as the run `part`.
 */
const repair = z.strictObject({
  kind: z.literal('repair'),
  run: name,
  part: name,
  by: runWorker,
  layers,
  ticket: ticketSchema,
})
export type Repair = Readonly<z.infer<typeof repair>>

/**
 * To the decode node: nothing more is to be taken from this worker as `part`; what is missing of that? Answered by
 * `surveyed`.
 */
const survey = z.strictObject({ kind: z.literal('survey'), run: name, part: name, worker: name })
export type Survey = Readonly<z.infer<typeof survey>>
/** To a prefill worker: another one of the run is gone. */
const lost = z.strictObject({ kind: z.literal('lost'), run: name, worker: name })

const joined = z.strictObject({ kind: z.literal('joined'), worker: name, epoch: count, tickets: ticketRuleSchema })
/** In the place of those that came with the run's assignment, which end. */
const tickets = z.strictObject({ kind: z.literal('tickets'), run: name, tickets: heldTicketsSchema })
/** Whom no worker may talk to any more. Takes the place of the earlier list. */
const denied = z.strictObject({ kind: z.literal('denied'), list: denyListSchema })
const refused = z.strictObject({ kind: z.literal('refused'), code: text, message: z.string().max(2048) })
const ping = z.strictObject({ kind: z.literal('ping'), seq: count })
/** The answer to `leaving`: no more runs will come, so the worker goes when those it has are over. */
const dismissed = z.strictObject({ kind: z.literal('dismissed') })
/** The client has all the text it wants: the decode node ends the run as if a stop token had come. */
const stop = z.strictObject({ kind: z.literal('stop'), run: name })
const cancel = z.strictObject({ kind: z.literal('cancel'), run: name, code: text })
/** Measure the links on which these workers would send KV here; a later one takes the place of one under way. */
const measureLinks = z.strictObject({
  kind: z.literal('measure_links'),
  peers: z
    .array(z.strictObject({ worker: name, url: text }))
    .min(1)
    .max(64),
})

/**
 * The answer to `fetching`: where else pieces of the model are. Payload: for each source that is not whole, in this order,
 * one bit for each piece of the model, in whole bytes.
 */
const sources = z.strictObject({
  kind: z.literal('sources'),
  sources: z.array(z.strictObject({ url: text, whole: z.boolean() })).max(64),
})

export const commandSchema = z.discriminatedUnion('kind', [
  joined,
  refused,
  ping,
  prefill,
  decode,
  repair,
  survey,
  lost,
  stop,
  cancel,
  dismissed,
  measureLinks,
  sources,
  tickets,
  denied,
])
/** Coordinator to worker. */
export type Command = Readonly<z.infer<typeof commandSchema>>

/** What a worker says of itself. */
const identity = {
  protocol: count,
  name,
  role: roleSchema,
  engine: name,
  url: text,
  host: text,
  cores: count,
  /** Threads of its engine. */
  threads: count,
  memoryBytes: count,
  /** Most memory that its runs may take together, weights not counted. */
  budgetBytes: count,
}

/** `fingerprint`: of its model's files; `precision`: what its numbers are true to (`shared/precision.ts`). */
const join = z.strictObject({ kind: z.literal('join'), ...identity, fingerprint, precision: z.enum(PRECISIONS) })
export type Join = Readonly<z.infer<typeof join>>

/**
 * From a worker that has not joined yet, because its model is on the way; again whenever it has more. Payload: which of the
 * model's `pieces` it has, one bit each, in whole bytes.
 */
const fetching = z.strictObject({
  kind: z.literal('fetching'),
  ...identity,
  pieces: z
    .number()
    .int()
    .min(0)
    .max(2 ** 17),
})
export type Fetching = Readonly<z.infer<typeof fetching>>

/** Calibrated and able to take assignments. */
const ready = z.strictObject({ kind: z.literal('ready'), cost: costSchema.optional() })
/** `clockSeconds`: the worker's monotonic clock as it answers, by which its traces are aligned with others'. */
const pong = z.strictObject({ kind: z.literal('pong'), seq: count, residentBytes: count, clockSeconds: z.number() })
const layerFinished = z.strictObject({ kind: z.literal('layer_finished'), run: name, layer: count })
const kvAssembled = z.strictObject({ kind: z.literal('kv_assembled'), run: name })
/** Payload: the first generated position's logits, float32 little-endian, `[vocab]`. Only when asked for. */
const logitsComputed = z.strictObject({ kind: z.literal('logits_computed'), run: name })
const tokenSampled = z.strictObject({
  kind: z.literal('token_sampled'),
  run: name,
  index: count,
  token: count,
  logprob: tokenLogprob.optional(),
})
/** Payload: the run's trace as recorded by the worker (`shared/trace.ts`). */
const finished = z.strictObject({
  kind: z.literal('finished'),
  run: name,
  reason: finishReason.optional(),
  report: workerReport,
})
/**
 * From the decode node. Payload: the blocks of the part that have not come, as int32 little-endian (start, end, first layer
 * that is missing) each.
 */
const surveyed = z.strictObject({ kind: z.literal('surveyed'), run: name, part: name, worker: name })
/** From the decode node: a worker's KV breaks off, though not all has come. */
const feedLost = z.strictObject({
  kind: z.literal('feed_lost'),
  run: name,
  part: name,
  worker: name,
  code: text,
  message: z.string().max(2048),
})
/** From the decode node: a block of a worker is not as it should be, and was dropped. */
const blockRefused = z.strictObject({
  kind: z.literal('block_refused'),
  run: name,
  part: name,
  worker: name,
  layer: count,
  start: count,
  count: z.number().int().min(1),
  code: text,
})
/**
 * From the decode node: a block computed again agrees up to this layer; or, if `wrong` says how far it is off, does not in
 * this one, which `worker` has made.
 */
const checked = z.strictObject({
  kind: z.literal('checked'),
  run: name,
  worker: name,
  layer: count,
  start: count,
  count: z.number().int().min(1),
  wrong: z.strictObject({ relative: z.number().min(0), outlier: z.number().min(0) }).optional(),
})
export type Checked = Readonly<z.infer<typeof checked>>
/** From a decode node, whenever that has changed: the names of all KV that has outlived its run. */
const kvKept = z.strictObject({ kind: z.literal('kv_kept'), names: z.array(fingerprint).max(16) })
const failed = z.strictObject({ kind: z.literal('failed'), run: name, code: text, message: z.string().max(2048) })
const leaving = z.strictObject({ kind: z.literal('leaving') })
/**
 * The answer to `measure_links`: KV from `from` to the worker that tells. Peers that could not be reached, or had a run to
 * serve, are left out.
 */
const linkMeasured = z.strictObject({ from: name, rttSeconds: z.number().min(0), bytesPerSecond: z.number().gt(0) })
export type MeasuredPeer = Readonly<z.infer<typeof linkMeasured>>
const linksMeasured = z.strictObject({ kind: z.literal('links_measured'), links: z.array(linkMeasured).max(64) })

export const eventSchema = z.discriminatedUnion('kind', [
  join,
  fetching,
  ready,
  pong,
  layerFinished,
  kvAssembled,
  logitsComputed,
  tokenSampled,
  finished,
  surveyed,
  feedLost,
  blockRefused,
  checked,
  kvKept,
  failed,
  leaving,
  linksMeasured,
])
/** Worker to coordinator. */
export type WorkerEvent = Readonly<z.infer<typeof eventSchema>>
