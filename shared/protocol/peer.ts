import { z } from 'zod'
import { MAX_BLOCK_BYTES } from '../link/link.ts'
import { WIRES } from '../plan.ts'
import { ticketSchema } from './tickets.ts'

/**
 * Messages between workers. The receiver of KV dials the sender, because frames from a WebSocket server are not masked:
 * so the dialler asks (`hello`, `subscribe`, `credit`, `unsubscribe`, `probe`) and the listener delivers (`kv`, `ended`,
 * `probed`).
 */

const name = z.string().min(1).max(64)
const count = z.number().int().min(0).max(0x7fffffff)
const fingerprint = z.string().length(64)

/** Always the first frame on the link. */
const hello = z.strictObject({ kind: z.literal('hello'), protocol: count, worker: name, fingerprint })

/**
 * `prefix`: KV that later workers attend to. `handoff`: the sender's own KV, for the decode node. `cached`: KV that the
 * decode node holds, or will: of the blocks in the payload, int32 little-endian (layer, start, count) each, in `wire`.
 * Blocks of layers below `window` may be sent; `credit` raises it. So a window of w means at most w layers in flight.
 */
const subscribe = z.strictObject({
  kind: z.literal('subscribe'),
  run: name,
  purpose: z.enum(['prefix', 'handoff', 'cached']),
  window: count,
  wire: z.enum(WIRES).optional(),
  ticket: ticketSchema,
})
const credit = z.strictObject({ kind: z.literal('credit'), run: name, window: count })
const unsubscribe = z.strictObject({ kind: z.literal('unsubscribe'), run: name })

/** Wants `bytes` that mean nothing, to measure the link by. Answered in order, one frame after the other. */
const probe = z.strictObject({
  kind: z.literal('probe'),
  seq: count,
  bytes: z.number().int().min(0).max(MAX_BLOCK_BYTES),
})

export const peerRequestSchema = z.discriminatedUnion('kind', [hello, subscribe, credit, unsubscribe, probe])
export type PeerRequest = Readonly<z.infer<typeof peerRequestSchema>>

/**
 * One KV block: K (after RoPE) and V of one layer at positions `[start, start + count)`. The header binds the payload to
 * its run, model and place; `crc32` is computed where the block is made and checked just before it is used.
 * Payload: `[2][kvHeads][count][headDim]`, little-endian, as `dtype` says; int8 is preceded by its scales,
 * float32 `[2][kvHeads][count]`. A maker may send a block in a wider type than planned, never in a narrower one.
 */
const kv = z.strictObject({
  kind: z.literal('kv'),
  run: name,
  fingerprint,
  /** Who made it, and since when that is a member of the cluster (`epoch` of the assignment). */
  origin: name,
  epoch: count,
  layer: count,
  start: count,
  count: z.number().int().min(1).max(0x7fffffff),
  dtype: z.enum(WIRES),
  crc32: z.number().int().min(0).max(0xffffffff),
})
export type KvHeader = Readonly<z.infer<typeof kv>>

/** The sender will deliver no more of this run: it failed or was cancelled there. */
const ended = z.strictObject({
  kind: z.literal('ended'),
  run: name,
  code: z.string().max(64),
  message: z.string().max(2048),
})
const refused = z.strictObject({ kind: z.literal('refused'), code: z.string().max(64), message: z.string().max(2048) })

/** Payload: as many bytes as were asked for; none if a run is served here, whose KV comes first. */
const probed = z.strictObject({ kind: z.literal('probed'), seq: count })

export const peerDeliverySchema = z.discriminatedUnion('kind', [kv, ended, refused, probed])
export type PeerDelivery = Readonly<z.infer<typeof peerDeliverySchema>>
