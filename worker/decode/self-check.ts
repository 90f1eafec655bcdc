import type { CheckedBlock } from '../../shared/checked-blocks.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { evenPieces, type Span } from '../../shared/plan.ts'
import type { Engine, Kv } from '../engine/engine.ts'
import { attendAll, type Chunk, type ChunkTask, embedChunks, mixLayer, releaseQuery } from '../prefill/layer-loop.ts'

/**
 * Finds workers that lie or miscompute: a KV block that was received is computed again, from its tokens and the received
 * K and V of all positions before it, and compared layer by layer. The block's own rows are taken from the new
 * computation, so that a wrong layer shows where it begins.
 *
 * Nobody can demand equal bits: another engine, or the same one with other pieces, sums in another order, and narrower
 * wires and weights round. So what is measured is how far K and V of each head are from what they should be, in relation
 * to their own size, and the coordinator says how far honest workers may be (`coordinator/runs/self-check.ts`).
 */
interface CheckTask extends ChunkTask {
  /** The run's cache, complete up to the end of `block`. */
  readonly kv_layers: readonly Kv[]
  /** `ChunkTask.tokens` are this block's. */
  readonly block: Span
}

/** How far K and V are from what was computed again: the worst of all heads, K and V apart. */
interface Distance {
  readonly layer: number
  /** Norm of the difference by the norm of what is right. */
  readonly relative: number
  /** The largest difference by the root mean square of what is right. */
  readonly outlier: number
}

type Apart = Omit<Distance, 'layer'>

/** Products of a query and a key in one piece of arithmetic, per head, as in `computeTail`. */
const SCORES_PER_PIECE = 256 * 512

/** Of a head's values the largest difference may be so many times the tolerance of all (honest pairs reach 20 times their own). */
const OUTLIER = 10

export interface BlockToCheck extends CheckedBlock {
  readonly tokens: Int32Array
}

/** A layer of a block: `wrong` says how far it is off, if that is more than the block's tolerance. */
interface CheckedLayer {
  readonly layer: number
  readonly start: number
  readonly count: number
  readonly wrong?: { readonly relative: number; readonly outlier: number }
}

/**
 * Computes blocks again, which are in ascending order, and tells of each layer. Throws `kv_wrong` after the first one that
 * is: what follows it was made on top of it.
 */
export async function* checkBlocks(
  of: Omit<CheckTask, 'block' | 'tokens'>,
  blocks: readonly BlockToCheck[],
): AsyncGenerator<CheckedLayer, void> {
  for (const { tokens, first, deeper, start, end } of blocks)
    for await (const { layer, relative, outlier } of distances({ ...of, tokens, block: { start, end } })) {
      const most = layer === 0 ? first : deeper
      const right = relative <= most && outlier <= OUTLIER * most
      const wrong = { relative: Math.min(relative, FARTHEST), outlier: Math.min(outlier, FARTHEST) }
      yield { layer, start, count: end - start, ...(right ? {} : { wrong }) }
      if (!right)
        throw new HeadraceError('kv_wrong', `layer ${layer} at position ${start} is not what it should be`, {
          details: { layer, start, relative, outlier, tolerance: most },
        })
    }
}

/** Where there is no distance in numbers. */
const FARTHEST = 1e9

/** Computes a block again, layer by layer, as far as the caller wants to know. */
async function* distances(task: CheckTask): AsyncGenerator<Distance, void> {
  const { engine, block, kv_layers } = task
  const chunks = await embedChunks(task, [block])
  try {
    for (let layer = 0; layer < engine.shape.layers; layer++) {
      const own = engine.createKv(block.start, block.end - block.start)
      try {
        for (const chunk of chunks) {
          await task.turn.take()
          chunk.q = await engine.project(layer, chunk.x, chunk.start, own, task.promptTokens)
        }
        yield { layer, ...(await distance(engine, own, kv_layers[layer]!, block)) }
        if (layer + 1 < engine.shape.layers) await goOn(task, layer, chunks, own)
      } finally {
        engine.release(own)
      }
    }
  } finally {
    for (const chunk of chunks) {
      releaseQuery(engine, chunk)
      if (chunk.acc !== undefined) engine.release(chunk.acc)
      engine.release(chunk.x)
    }
  }
}

/** Attends to what was received before the block and to the block's own rows, and mixes. */
async function goOn(task: CheckTask, layer: number, chunks: Chunk[], own: Kv): Promise<void> {
  const { engine, block, kv_layers } = task
  for (const chunk of chunks) chunk.acc = engine.accumulator(chunk.q!)
  const widest = Math.max(...chunks.map(({ x }) => x.tokens))
  const before = block.start === 0 ? [] : [{ start: 0, end: block.start }]
  for (const { start, end } of evenPieces(before, Math.ceil(SCORES_PER_PIECE / widest)))
    await attendAll(task, layer, chunks, kv_layers[layer]!, { start, count: end - start })
  await attendAll(task, layer, chunks, own)
  await mixLayer(task, layer, chunks)
}

async function distance(engine: Engine, own: Kv, received: Kv, { start, end }: Span): Promise<Apart> {
  const values = async (kv: Kv): Promise<Float32Array> =>
    new Float32Array((await engine.exportKv(kv, start, end - start, 'f32')).bytes.slice().buffer)
  const [right, found] = [await values(own), await values(received)]
  const perHead = (end - start) * engine.shape.headDim
  let worst: Apart = { relative: 0, outlier: 0 }
  for (let from = 0; from < right.length; from += perHead) {
    const head = headDistance(right.subarray(from, from + perHead), found.subarray(from, from + perHead))
    worst = { relative: worse(worst.relative, head.relative), outlier: worse(worst.outlier, head.outlier) }
  }
  return worst
}

/** What is not a number is as far away as can be. */
const worse = (a: number, b: number): number => (Number.isNaN(b) ? Number.POSITIVE_INFINITY : Math.max(a, b))

/** Exported for its tests. A head that is all zeros has no size to compare with: then any difference counts in full. */
export function headDistance(right: Float32Array, found: Float32Array): Apart {
  let size = 0
  let difference = 0
  let largest = 0
  for (let i = 0; i < right.length; i++) {
    const apart = found[i]! - right[i]!
    size += right[i]! * right[i]!
    difference += apart * apart
    largest = worse(largest, Math.abs(apart))
  }
  const rootMeanSquare = Math.sqrt(size / right.length)
  if (difference === 0 && largest === 0) return { relative: 0, outlier: 0 }
  return { relative: Math.sqrt(difference / size), outlier: largest / rootMeanSquare }
}
