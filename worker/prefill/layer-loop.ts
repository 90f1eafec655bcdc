import type { Clock } from '../../shared/clock.ts'
import { blocksOf, evenPieces, type Span } from '../../shared/plan.ts'
import type { Turn } from '../compute/turns.ts'
import type { Accumulator, Engine, Hidden, Kv, Positions, Query } from '../engine/engine.ts'
import { exportBlock, importBlock } from '../kv/block.ts'
import type { Encoding } from './encodings.ts'
import type { KvExchange } from './exchange.ts'

/**
 * One worker's side of a prefill: for each layer project, exchange, attend, mix (DESIGN section 2, step 6).
 *
 * A layer is projected for all of the worker's tokens before any of them attends: later workers and the decode node get
 * its KV as early as possible. The last layer is only projected: nobody but the decode node's own last token needs
 * attention there, and who makes up for another one has no use for layers beyond those that are missing.
 */
interface PrefillTask extends ChunkTask {
  readonly spans: readonly Span[]
  readonly blockTokens: number
  /** Layers that are computed, from the first one on. */
  readonly layers: number
  readonly exchange: KvExchange
  /** How own blocks of a layer are encoded, and for whom. */
  readonly encodings: (layer: number) => readonly Encoding[]
  readonly clock: Clock
}

/** What computing with chunks takes, at a worker and at the decode node alike. */
export interface ChunkTask {
  readonly engine: Engine
  /** Ids of the own tokens, in ascending position. */
  readonly tokens: Int32Array
  /** Of the whole run: rotary embedding may depend on it. */
  readonly promptTokens: number
  /** Taken before each piece of arithmetic. */
  readonly turn: Turn
}

interface PrefillTimes {
  /** The run had the turn; while another run had it, neither grows. */
  readonly computeSeconds: number
  /** Compute stood still because another worker's block had not arrived. */
  readonly waitSeconds: number
}

/** At most `engine.chunkTokens` consecutive tokens, computed at once, inside one KV block. */
export interface Chunk {
  readonly start: number
  x: Hidden
  q?: Query
  acc?: Accumulator
}

export async function runLayers(task: PrefillTask): Promise<PrefillTimes> {
  const { engine, exchange, clock, turn } = task
  let waitSeconds = 0
  const blocks = blocksOf(task.spans, task.blockTokens)
  const chunks = await embedChunks(task, blocks)
  const lastLayer = task.layers - 1

  for (let layer = 0; layer <= lastLayer; layer++) {
    const own = await projectLayer(task, layer, blocks, chunks)
    if (layer < lastLayer) {
      await attendOwn(task, layer, chunks, own)
      for (;;) {
        turn.rest()
        const asked = clock.now()
        const block = await exchange.next(layer)
        waitSeconds += clock.now() - asked
        await turn.take()
        if (block === undefined) break
        const kv = await importBlock(engine, block)
        await attendAll(task, layer, chunks, kv)
        engine.release(kv)
      }
      await mixLayer(task, layer, chunks)
    }
    engine.release(...own)
    exchange.release(layer)
  }
  for (const chunk of chunks) engine.release(chunk.x)
  return { computeSeconds: turn.seconds, waitSeconds }
}

export async function embedChunks(task: ChunkTask, blocks: readonly Span[]): Promise<Chunk[]> {
  const chunks: Chunk[] = []
  let taken = 0
  for (const { start, end } of evenPieces(blocks, task.engine.chunkTokens)) {
    await task.turn.take()
    const x = await task.engine.embed(task.tokens.subarray(taken, taken + end - start))
    chunks.push({ start, x })
    taken += end - start
  }
  return chunks
}

/** Projects every chunk; each KV block is published the moment its last chunk is in. */
async function projectLayer(task: PrefillTask, layer: number, blocks: readonly Span[], chunks: Chunk[]): Promise<Kv[]> {
  const { engine, exchange } = task
  const own: Kv[] = []
  for (const block of blocks) {
    const kv = engine.createKv(block.start, block.end - block.start)
    for (const chunk of chunks) {
      if (chunk.start < block.start || chunk.start >= block.end) continue
      await task.turn.take()
      chunk.q = await engine.project(layer, chunk.x, chunk.start, kv, task.promptTokens)
    }
    for (const { wire, uses } of task.encodings(layer))
      exchange.publish(await exportBlock(engine, layer, kv, wire), uses)
    own.push(kv)
  }
  if (layer === task.layers - 1) for (const chunk of chunks) releaseQuery(engine, chunk)
  return own
}

async function attendOwn(task: PrefillTask, layer: number, chunks: Chunk[], own: readonly Kv[]): Promise<void> {
  for (const chunk of chunks) chunk.acc = task.engine.accumulator(chunk.q!)
  for (const kv of own) await attendAll(task, layer, chunks, kv)
}

/** Every chunk that can see any key of `kv`, or of its `range`, folds it in. */
export async function attendAll(
  task: ChunkTask,
  layer: number,
  chunks: readonly Chunk[],
  kv: Kv,
  range?: Positions,
): Promise<void> {
  for (const chunk of chunks) {
    if (chunk.start + chunk.x.tokens <= (range ?? kv).start) continue
    await task.turn.take()
    await task.engine.attend(layer, chunk.q!, kv, chunk.acc!, range)
  }
}

export async function mixLayer(task: ChunkTask, layer: number, chunks: Chunk[]): Promise<void> {
  for (const chunk of chunks) {
    await task.turn.take()
    releaseQuery(task.engine, chunk)
    chunk.x = await task.engine.mix(layer, chunk.x, chunk.acc!)
    delete chunk.acc
  }
}

export function releaseQuery(engine: Engine, chunk: Chunk): void {
  if (chunk.q !== undefined) engine.release(chunk.q)
  delete chunk.q
}
