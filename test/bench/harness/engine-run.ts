import { blocksOf, evenPieces } from '../../../shared/plan.ts'
import type { Accumulator, Engine, Hidden, Kv, Query } from '../../../worker/engine/engine.ts'

/** What a solo worker and its decode node do with an engine, in one loop and without what lies between the two. */

/** As the planner cuts KV unless told otherwise. */
const BLOCK_TOKENS = 512

interface Chunk {
  readonly start: number
  x: Hidden
  q?: Query
  acc?: Accumulator
}

/**
 * A prompt to the logits of its last token. Layer by layer, all tokens of one before the next, as in the layer loop; the
 * last layer goes beyond K and V for the last chunk only. Says of how many tokens that was. Without `head` there are no logits.
 */
export async function prefill(
  engine: Engine,
  tokens: Int32Array,
  head = true,
): Promise<{ logits: Float32Array; lastRows: number }> {
  const blocks = blocksOf([{ start: 0, end: tokens.length }], BLOCK_TOKENS)
  const chunks: Chunk[] = []
  for (const { start, end } of evenPieces(blocks, engine.chunkTokens))
    chunks.push({ start, x: await engine.embed(tokens.subarray(start, end)) })
  const last = chunks.at(-1)!
  const lastLayer = engine.shape.layers - 1
  for (let layer = 0; layer <= lastLayer; layer++) {
    const own = blocks.map(({ start, end }) => engine.createKv(start, end - start))
    for (const chunk of chunks) chunk.q = await engine.project(layer, chunk.x, chunk.start, holder(own, chunk.start))
    for (const chunk of chunks) {
      if (layer < lastLayer || chunk === last) await finishLayer(engine, layer, chunk, own)
      else engine.release(chunk.q!)
    }
    engine.release(...own)
  }
  const logits = head ? await engine.logits(last.x) : new Float32Array(1)
  engine.release(...chunks.map(({ x }) => x))
  return { logits, lastRows: last.x.tokens }
}

/** One token after those in `kv_layers`, which it joins; the logits after it. */
export async function decodeStep(
  engine: Engine,
  kv_layers: readonly Kv[],
  token: number,
  position: number,
): Promise<Float32Array> {
  const x = await engine.step(await engine.embed(Int32Array.of(token)), position, kv_layers)
  const logits = await engine.logits(x)
  engine.release(x)
  return logits
}

async function finishLayer(engine: Engine, layer: number, chunk: Chunk, own: readonly Kv[]): Promise<void> {
  const q = chunk.q!
  const acc = engine.accumulator(q)
  for (const kv of own) if (kv.start < chunk.start + chunk.x.tokens) await engine.attend(layer, q, kv, acc)
  engine.release(q)
  chunk.x = await engine.mix(layer, chunk.x, acc)
}

const holder = (own: readonly Kv[], position: number): Kv =>
  own.find(({ start, capacity }) => start <= position && position < start + capacity)!
