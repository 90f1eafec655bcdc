import type { Clock } from '../../shared/clock.ts'
import { evenPieces } from '../../shared/plan.ts'
import { attendAll, type Chunk, type ChunkTask, embedChunks, mixLayer, releaseQuery } from '../prefill/layer-loop.ts'
import type { Assembly } from './assembly.ts'

/**
 * The decode node's own part of a prefill: it is the tail of the chain, whatever the strategy (DESIGN section 6). It
 * computes the positions from `start` to the end of the prompt, at least the last one, and follows the workers layer by
 * layer: their blocks of a layer are folded in as they come, so that after the very last block one layer is left to do.
 */
interface TailTask extends ChunkTask {
  readonly start: number
  readonly assembly: Pick<Assembly, 'kv_layers' | 'computed' | 'take'>
  readonly clock: Clock
  readonly onLayer: (layer: number) => void
}

interface TailResult {
  /** Of the prompt's last position, `[vocab]`. */
  readonly logits: Float32Array
  /** Compute stood still because a worker's block had not arrived. */
  readonly waitSeconds: number
}

/** Products of a query and a key in one piece of arithmetic, per head: as many as a whole chunk has with a block of 512. */
const SCORES_PER_PIECE = 256 * 512

export async function computeTail(task: TailTask): Promise<TailResult> {
  const { engine, assembly, start, turn } = task
  let chunks = await embedChunks(task, [{ start, end: start + task.tokens.length }])
  let waitSeconds = 0
  const lastLayer = engine.shape.layers - 1
  for (let layer = 0; layer <= lastLayer; layer++) {
    await projectChunks(task, layer, chunks)
    if (layer === lastLayer) chunks = [await lastTokenOnly(task, layer, chunks)]
    assembly.computed(layer, start)
    waitSeconds += await attendLayer(task, layer, chunks)
    await mixLayer(task, layer, chunks)
    task.onLayer(layer)
  }
  const last = chunks.at(-1)!
  await turn.take()
  const logits = await engine.logits(last.x)
  engine.release(last.x)
  return { logits, waitSeconds }
}

/** K and V go where they stay: into the run's cache. */
async function projectChunks(task: TailTask, layer: number, chunks: readonly Chunk[]): Promise<void> {
  for (const chunk of chunks) {
    await task.turn.take()
    const kv = task.assembly.kv_layers[layer]!
    chunk.q = await task.engine.project(layer, chunk.x, chunk.start, kv, task.promptTokens)
  }
}

/** In the last layer every token's K and V are needed, but only the prompt's last token goes on from there. */
async function lastTokenOnly(task: TailTask, layer: number, chunks: readonly Chunk[]): Promise<Chunk> {
  const { engine, assembly, turn } = task
  const last = chunks.at(-1)!
  const position = last.start + last.x.tokens - 1
  for (const chunk of chunks) if (chunk !== last) dropChunk(task, chunk)
  if (last.x.tokens === 1) return last
  await turn.take()
  const x = engine.lastRow(last.x)
  dropChunk(task, last)
  const kv = assembly.kv_layers[layer]!
  return { start: position, x, q: await engine.project(layer, x, position, kv, task.promptTokens) }
}

function dropChunk({ engine }: TailTask, chunk: Chunk): void {
  releaseQuery(engine, chunk)
  engine.release(chunk.x)
}

/** Folds the whole prompt's keys of one layer, as they come. Returns the seconds spent waiting for them. */
async function attendLayer(task: TailTask, layer: number, chunks: readonly Chunk[]): Promise<number> {
  const { engine, assembly, clock, turn } = task
  const widest = Math.max(...chunks.map(({ x }) => x.tokens))
  const keysPerPiece = Math.ceil(SCORES_PER_PIECE / widest)
  let waitSeconds = 0
  for (const chunk of chunks) chunk.acc = engine.accumulator(chunk.q!)
  for (;;) {
    turn.rest()
    const asked = clock.now()
    const arrived = await assembly.take(layer)
    waitSeconds += clock.now() - asked
    if (arrived === undefined) return waitSeconds
    for (const { start, end } of evenPieces(arrived, keysPerPiece))
      await attendAll(task, layer, chunks, assembly.kv_layers[layer]!, { start, count: end - start })
  }
}
