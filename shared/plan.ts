import { z } from 'zod'
import type { WorkerId } from './ids.ts'

/** How a prompt is split (DESIGN section 1): `chain` is KV-Runahead, `ring` is Ring Attention, `solo` is one worker. */
export const STRATEGIES = ['solo', 'chain', 'ring'] as const
export type Strategy = (typeof STRATEGIES)[number]

const position = z.number().int().min(0).max(0x7fffffff)

/** Token positions `[start, end)` of a run. */
export const spanSchema = z.strictObject({ start: position, end: position }).refine((s) => s.end > s.start)
export type Span = Readonly<z.infer<typeof spanSchema>>

export const spanTokens = (spans: readonly Span[]): number => spans.reduce((n, s) => n + s.end - s.start, 0)

/**
 * How the numbers of a KV block travel. `int8` has one float32 scale per head and token. A block keeps the precision that
 * its maker gave it: who passes it on does not touch it.
 */
export const WIRES = ['f32', 'f16', 'int8'] as const
export type Wire = (typeof WIRES)[number]

/** What limits a plan's time to first token. */
export const BOUNDS = ['compute', 'link', 'latency', 'memory'] as const
export type Bound = (typeof BOUNDS)[number]

/** One worker's part of a plan, in the order of the chain or ring. Spans are in ascending order. */
interface PlanWorker {
  readonly worker: WorkerId
  readonly spans: readonly Span[]
  /** Predicted seconds of arithmetic for these spans, all layers. */
  readonly computeSeconds: number
  /** Precision of its blocks on their way to later workers, and to the decode node. */
  readonly prefixWire: Wire
  readonly handoffWire: Wire
}

/** A complete, frozen value: a worker carries out its part with no further question. */
export interface Plan {
  readonly strategy: Strategy
  /**
   * Positions `[0, prefillTokens)` are computed by the workers, the others by the decode node: at least the last one, unless
   * the plan `isResumed`.
   */
  readonly promptTokens: number
  readonly prefillTokens: number
  /** Empty when the decode node does all. */
  readonly workers: readonly PlanWorker[]
  readonly decode: WorkerId
  /** Most tokens in one KV block (`blocksOf`). */
  readonly blockTokens: number
  readonly predictedTtftSeconds: number
  readonly bound: Bound
  /** The same in words, naming who or what: `worker-2 computes`, `link worker-1 to worker-2`. */
  readonly boundBy: string
}

/** The decode node has the KV of the whole prompt, from an earlier run: nothing is left to compute. */
export const isResumed = ({ prefillTokens, promptTokens }: Pick<Plan, 'prefillTokens' | 'promptTokens'>): boolean =>
  prefillTokens === promptTokens

/** Whose KV reaches the worker at `rank` at first hand; the chain's first worker and a lone one need nobody's. */
export function sourceRank(strategy: Strategy, rank: number, workers: number): number | undefined {
  if (strategy === 'solo' || workers < 2) return undefined
  if (strategy === 'ring') return (rank + workers - 1) % workers
  return rank > 0 ? rank - 1 : undefined
}

/**
 * Spans cut into as few pieces as `mostTokens` allows, in ascending order, each span into pieces of about the same length: a
 * short rest would take nearly as long as a whole piece.
 */
export function evenPieces(spans: readonly Span[], mostTokens: number): Span[] {
  return spans.flatMap(({ start, end }) => {
    const count = Math.ceil((end - start) / mostTokens)
    const length = Math.ceil((end - start) / count)
    return Array.from({ length: count }, (_, i) => ({
      start: start + i * length,
      end: Math.min(start + (i + 1) * length, end),
    }))
  })
}

/** The KV blocks that spans are cut into. Every worker of a run cuts them alike. */
export const blocksOf = (spans: readonly Span[], blockTokens: number): Span[] => evenPieces(spans, blockTokens)
