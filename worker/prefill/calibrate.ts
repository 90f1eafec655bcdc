import type { Clock } from '../../shared/clock.ts'
import type { ModelShape } from '../../shared/model-shape.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import { wireBytes } from '../../shared/wire-bytes.ts'
import type { Engine } from '../engine/engine.ts'
import { exportBlock, importBlock, isIntact } from '../kv/block.ts'

/** Seconds that all timing together may take, roughly; slow engines get smaller pieces. */
const BUDGET_SECONDS = 1
const MOST_ROUNDS = 7
/** Tokens of context behind the second kind of point, and how they are cut: as in a real run, a block at a time. */
const CONTEXT_TOKENS = 4096
const BLOCK_TOKENS = 512

/** One timed piece of work: `n` tokens after `p`, in seconds per layer. */
interface Point {
  readonly n: number
  readonly p: number
  readonly seconds: number
}

/** The same, with what of it attention took. */
interface TimedPoint extends Point {
  readonly attendSeconds: number
}

/**
 * Fits o + a n + b n (P + n/2), the seconds of one layer (DESIGN section 6), to timings of the engine's own calls: of a layer
 * of every kind, each counting as often as the model has it. Random tokens do: the time of dense arithmetic does not depend
 * on the values, and they spread over experts as others do.
 */
export async function calibrate(engine: Engine, clock: Clock): Promise<Cost> {
  const chunk = Math.min(engine.chunkTokens, engine.shape.contextLength)
  await timeLayer(engine, clock, Math.min(16, chunk), 0) // wakes the engine up: first calls allocate
  const small = await timeLayer(engine, clock, Math.max(1, chunk >> 3), 0)
  const once = (small.seconds / small.n) * chunk
  const rounds = Math.max(1, Math.min(MOST_ROUNDS, Math.floor(BUDGET_SECONDS / (6 * once + 1e-6))))
  const context = Math.min(CONTEXT_TOKENS, Math.max(0, engine.shape.contextLength - chunk))
  const kinds: readonly (readonly [n: number, p: number])[] = [
    [Math.max(1, chunk >> 3), 0],
    [Math.max(1, chunk >> 1), 0],
    [chunk, 0],
    [chunk, context >> 1],
    [chunk, context],
  ]
  const perRound: TimedPoint[][] = []
  for (let round = 0; round < rounds; round++) {
    const points: TimedPoint[] = []
    for (const [n, p] of kinds) points.push(await timeLayer(engine, clock, n, p))
    perRound.push(points)
  }
  const c = await takeInSeconds(engine, clock, rounds)
  return { ...typicalCost(typicalPoints(perRound), chunk), c }
}

/** What attention takes beside b is told only where its calls end when its work does, as those to a GPU do not. */
export function typicalCost(points: readonly TimedPoint[], chunk: number): Cost {
  const cost = spreadOverhead(fitCost(points), chunk)
  const attention = spreadOverhead(fitCost(points.map((point) => ({ ...point, seconds: point.attendSeconds }))), chunk)
  return attention.b > cost.b / 2 ? { ...cost, e: Math.min(attention.a, cost.a) } : cost
}

/**
 * How the kinds of pieces compare, the least of each says best: another program only ever adds time, and not to all alike.
 * How long they take one after the other, all of them say: a processor that is throttled gives short pieces all they want
 * and stands still between them. The first round, which touches memory for the first time, counts only where it is alone.
 */
export function typicalPoints(rounds: readonly (readonly TimedPoint[])[]): TimedPoint[] {
  const warm = rounds.length > 1 ? rounds.slice(1) : rounds
  const least = warm[0]!.map((_, kind) =>
    warm.map((points) => points[kind]!).reduce((best, point) => (point.seconds < best.seconds ? point : best)),
  )
  const total = (points: readonly Point[]): number => points.reduce((sum, { seconds }) => sum + seconds, 0)
  const inAll = warm.reduce((sum, points) => sum + total(points), 0)
  const slower = inAll / (warm.length * total(least))
  return least.map((point) => ({
    ...point,
    seconds: point.seconds * slower,
    attendSeconds: point.attendSeconds * slower,
  }))
}

/**
 * Seconds of one token of a block that another worker made: checking it and copying it in. All rounds but the first, which
 * touches memory for the first time: a processor that is throttled may stand still in any of them.
 */
async function takeInSeconds(engine: Engine, clock: Clock, rounds: number): Promise<number> {
  const tokens = Math.min(BLOCK_TOKENS, engine.shape.contextLength)
  const kv = engine.createKv(0, tokens)
  let seconds = 0
  for (let round = 0; round <= rounds; round++) {
    const block = await exportBlock(engine, 0, kv, 'f32')
    const started = clock.now()
    if (isIntact(block)) engine.release(await importBlock(engine, block))
    if (round > 0) seconds += clock.now() - started
  }
  engine.release(kv)
  return seconds / rounds / tokens
}

/**
 * What was timed was a chunk at a time, and each launch costs o. A span of n tokens is n / chunk launches and, on average,
 * half a one that is not full.
 */
export const spreadOverhead = ({ o, a, b }: Cost, chunk: number): Cost => ({ o: o / 2, a: a + o / chunk, b })

async function timeLayer(engine: Engine, clock: Clock, n: number, p: number): Promise<TimedPoint> {
  const tokens = Int32Array.from({ length: n }, (_, i) => (i * 7919) % engine.shape.vocab)
  const prefix = []
  for (let start = 0; start < p; start += BLOCK_TOKENS) {
    const kv = engine.createKv(start, Math.min(BLOCK_TOKENS, p - start))
    // Distinct memory with small finite values, as blocks off the wire have.
    const bytes = new Uint8Array(wireBytes(engine.shape, kv.capacity, 'f32'))
    await engine.importKv(kv, kv.start, kv.capacity, { dtype: 'f32', bytes })
    prefix.push(kv)
  }
  let [seconds, attendSeconds] = [0, 0]
  for (const { layer, share } of layerKinds(engine.shape)) {
    const x = await engine.embed(tokens)
    const own = engine.createKv(p, n)
    const started = clock.now()
    const q = await engine.project(layer, x, p, own)
    const acc = engine.accumulator(q)
    const projected = clock.now()
    for (const kv of [own, ...prefix]) await engine.attend(layer, q, kv, acc)
    const attended = clock.now()
    const mixed = await engine.mix(layer, x, acc)
    seconds += share * (clock.now() - started)
    attendSeconds += share * (attended - projected)
    engine.release(mixed, q, own)
  }
  engine.release(...prefix)
  return { n, p, seconds, attendSeconds }
}

/** A layer of each kind that takes its own time, and what part of the layers is like it. */
export function layerKinds({ layers, layerShapes }: ModelShape): { readonly layer: number; readonly share: number }[] {
  const kinds = new Map<string, { layer: number; share: number }>()
  for (const [layer, { window, experts }] of layerShapes.entries()) {
    const kind = kinds.get(`${window} ${experts}`) ?? { layer, share: 0 }
    kinds.set(`${window} ${experts}`, { ...kind, share: kind.share + 1 / layers })
  }
  return [...kinds.values()]
}

/**
 * Least squares of seconds = o + a n + b n (p + n/2), each point weighted by 1/seconds so that all count alike. A
 * coefficient that comes out negative is noise: it is set to zero and the others fitted again.
 */
export function fitCost(points: readonly Point[]): Cost {
  const rows = points.map(({ n, p, seconds }) => ({
    terms: [1, n, n * (p + n / 2)].map((term) => term / seconds),
    target: 1,
  }))
  let free = [0, 1, 2]
  for (;;) {
    const solution = solveNormal(rows, free)
    const negative = free.filter((_, i) => solution[i]! < 0)
    if (negative.length === 0) {
      const at = (term: number): number => (free.includes(term) ? solution[free.indexOf(term)]! : 0)
      return { o: at(0), a: at(1), b: at(2) }
    }
    free = free.filter((term) => term !== negative[0])
  }
}

/**
 * Solves the normal equations of `rows` over the columns `free` by elimination. They are symmetric and positive definite,
 * so no pivoting is needed.
 */
function solveNormal(rows: readonly { terms: number[]; target: number }[], free: readonly number[]): number[] {
  const matrix = free.map((i) => [
    ...free.map((j) => rows.reduce((sum, r) => sum + r.terms[i]! * r.terms[j]!, 0)),
    rows.reduce((sum, r) => sum + r.terms[i]! * r.target, 0),
  ])
  for (const [column, pivot] of matrix.entries())
    for (const [row, cells] of matrix.entries()) {
      if (row === column) continue
      const factor = cells[column]! / pivot[column]!
      for (let k = column; k < cells.length; k++) cells[k] = cells[k]! - factor * pivot[k]!
    }
  return matrix.map((row, i) => row[free.length]! / row[i]!)
}
