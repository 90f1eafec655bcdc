import type { PrefillAssignment } from '../../shared/protocol/control.ts'
import type { EncodedKv } from '../engine/engine.ts'

/** One KV block on its way: K (after RoPE) and V of one layer at `[start, start + count)`, as its maker encoded it. */
export interface KvBlock extends EncodedKv {
  readonly layer: number
  readonly start: number
  readonly count: number
  /** Of `bytes`, computed where the block was made and checked just before it is used. */
  readonly crc32: number
}

/** A block as it came over a link: its memory may be shared with another thread, and filled again once it is used. */
export type ReceivedBlock = Omit<KvBlock, 'bytes'> & { readonly bytes: Uint8Array }

/** The same where it is used. `id` says which it was. */
export type DeliveredBlock = ReceivedBlock & { readonly id: number }

/** Who needs a worker's own blocks: the next worker (`prefix`), or the decode node (`handoff`). */
export type Use = 'prefix' | 'handoff'

/**
 * How attention reaches beyond a worker's own tokens: the layer loop sees nothing else of the cluster. The order within
 * a layer is always the same: post own blocks, compute on what is held, take the others as they come, let go.
 */
export interface KvExchange {
  /** Posts one of this worker's own blocks, in one encoding, to those who need it so. Never waits for a socket. */
  publish(block: KvBlock, uses: readonly Use[]): void
  /** The next block of `layer` from another worker, in order of arrival and undamaged; `undefined` when all have come. */
  next(layer: number): Promise<KvBlock | undefined>
  /** This worker has finished `layer`: its blocks may be dropped and the next ones sent. */
  release(layer: number): void
}

/**
 * What a strategy decides, as pure functions of the assignment. Ranks are places in `assignment.workers`. KV moves one
 * way, from rank to rank; the hand-off to the decode node is the same for all and not part of it.
 */
export interface Routes {
  /** Whose blocks come to me directly. */
  source(a: PrefillAssignment): number | undefined
  /** Who gets my blocks directly. */
  target(a: PrefillAssignment): number | undefined
  /** Whether a block made by `origin` goes on to my target. */
  relays(a: PrefillAssignment, origin: number): boolean
  /** Whose blocks must arrive before a layer of mine is complete. */
  origins(a: PrefillAssignment): readonly number[]
}
