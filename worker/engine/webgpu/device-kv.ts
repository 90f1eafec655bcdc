import { HeadraceError } from '../../../shared/errors.ts'
import type { Kv, Positions } from '../engine.ts'
import type { Floats } from '../host-tensors.ts'
import type { DeviceSessions, DeviceTensor } from './device-sessions.ts'
import { hostInts, hostTensor } from './device-sessions.ts'

/** K and V of consecutive positions. Never written again: a change is another segment. */
export interface Segment extends Positions {
  /** [kvHeads, headDim, count]: keys lie transposed, as the product with queries wants them. */
  readonly k: DeviceTensor
  /** [kvHeads, count, headDim] */
  readonly v: DeviceTensor
}

/** Segments grow to this many tokens: fewer calls, but no larger copies than these. */
const MOST_TOKENS = 2048
/** Below this, copying is cheaper than a call. */
const FEW_TOKENS = 64

/**
 * The cache of a layer. A graph cannot write into a part of a buffer that is there already, so the cache is a list of
 * segments, in ascending order; neighbours of about the same size become one, so that a token is copied a few times at most.
 */
export class DeviceKv implements Kv {
  readonly start: number
  readonly capacity: number
  #segments: readonly Segment[] = []

  constructor(start: number, capacity: number) {
    this.start = start
    this.capacity = capacity
  }

  get range(): Positions {
    return { start: this.start, count: this.capacity }
  }

  /** Throws `kv_shape` unless the positions lie inside. */
  checkRange({ start, count }: Positions): void {
    if (start < this.start || count < 1 || start + count > this.start + this.capacity)
      throw new HeadraceError(
        'kv_shape',
        `positions [${start}, ${start + count}) are not inside [${this.start}, ${this.start + this.capacity})`,
      )
  }

  /** What of the segments lies in the range, in ascending order. */
  parts(range: Positions): { readonly segment: Segment; readonly start: number; readonly count: number }[] {
    return this.#segments.flatMap((segment) => {
      const start = Math.max(segment.start, range.start)
      const count = Math.min(endOf(segment), endOf(range)) - start
      return count > 0 ? [{ segment, start, count }] : []
    })
  }

  /** Takes the segment over; what was at its positions is gone. */
  async put(sessions: DeviceSessions, added: Segment): Promise<void> {
    const kept: Segment[] = []
    for (const segment of this.#segments) {
      const pieces = without(segment, added)
      for (const piece of pieces)
        kept.push(piece.count === segment.count ? segment : await cut(sessions, segment, piece))
      if (pieces.every(({ count }) => count < segment.count)) dispose(segment)
    }
    this.#segments = [...kept, added].sort((a, b) => a.start - b.start)
    await this.#join(sessions, added)
  }

  release(): void {
    for (const segment of this.#segments) dispose(segment)
    this.#segments = []
  }

  /** Joins the segment with its neighbours as long as that pays. */
  async #join(sessions: DeviceSessions, added: Segment): Promise<void> {
    let at = this.#segments.indexOf(added)
    for (;;) {
      if (worthJoining(this.#segments[at - 1], this.#segments[at])) at -= 1
      else if (!worthJoining(this.#segments[at], this.#segments[at + 1])) return
      const [first, second] = this.#segments.slice(at, at + 2) as [Segment, Segment]
      const joined = await join(sessions, first, second)
      this.#segments = this.#segments.toSpliced(at, 2, joined)
      dispose(first)
      dispose(second)
    }
  }
}

const endOf = ({ start, count }: Positions): number => start + count

function worthJoining(first: Segment | undefined, second: Segment | undefined): boolean {
  if (first === undefined || second === undefined || endOf(first) !== second.start) return false
  const most = Math.max(first.count, second.count)
  const least = Math.min(first.count, second.count)
  return most + least <= MOST_TOKENS && (most < FEW_TOKENS || most <= 2 * least)
}

/** What is left of a range when another one is taken out. */
function without(range: Positions, taken: Positions): Positions[] {
  const before = Math.min(endOf(range), taken.start)
  const after = Math.max(range.start, endOf(taken))
  return [
    { start: range.start, count: before - range.start },
    { start: after, count: endOf(range) - after },
  ].filter(({ count }) => count > 0)
}

/** A copy of a part of a segment. */
export async function cut(sessions: DeviceSessions, segment: Segment, { start, count }: Positions): Promise<Segment> {
  const { k, v } = await sessions.run('slice', partOf(segment, { start, count }))
  return { start, count, k: k!, v: v! }
}

async function join(sessions: DeviceSessions, first: Segment, second: Segment): Promise<Segment> {
  const { k, v } = await sessions.run('concat', {
    k_first: first.k,
    k_second: second.k,
    v_first: first.v,
    v_second: second.v,
  })
  return { start: first.start, count: first.count + second.count, k: k!, v: v! }
}

/** K and V `[kvHeads, count, headDim]` of the host, as a segment. */
export async function storeSegment(
  sessions: DeviceSessions,
  { start, count }: Positions,
  dims: readonly number[],
  host: { k: Floats; v: Floats },
): Promise<Segment> {
  const { k, v } = await sessions.run('store', { k_host: hostTensor(host.k, dims), v_host: hostTensor(host.v, dims) })
  return { start, count, k: k!, v: v! }
}

/** The inverse, of a part of a segment. */
export async function loadSegment(
  sessions: DeviceSessions,
  segment: Segment,
  part: Positions,
): Promise<{ k: Float32Array; v: Float32Array }> {
  const { k_host, v_host } = await sessions.run('load', partOf(segment, part))
  return { k: k_host!.data as Float32Array, v: v_host!.data as Float32Array }
}

const partOf = (segment: Segment, { start, count }: Positions) => ({
  k_all: segment.k,
  v_all: segment.v,
  from: hostInts(start - segment.start),
  to: hostInts(start + count - segment.start),
})

export function dispose({ k, v }: Segment): void {
  k.dispose()
  v.dispose()
}
