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

/** What limits a plan's time to first token. Links and memory come in with their own measurements. */
export type Bound = 'compute' | 'latency'

/** One worker's part of a plan, in the order of the chain or ring. Spans are in ascending order. */
interface PlanWorker {
  readonly worker: WorkerId
  readonly spans: readonly Span[]
  /** Predicted seconds of arithmetic for these spans, all layers. */
  readonly computeSeconds: number
}

/** A complete, frozen value: a worker carries out its part with no further question. */
export interface Plan {
  readonly strategy: Strategy
  /** Positions `[0, prefillTokens)` are computed by the workers; the decode node computes the prompt's last token. */
  readonly promptTokens: number
  readonly prefillTokens: number
  /** Empty when the prompt is a single token: then the decode node does all. */
  readonly workers: readonly PlanWorker[]
  readonly decode: WorkerId
  /** Most tokens in one KV block. Blocks are counted from the start of their span. */
  readonly blockTokens: number
  readonly predictedTtftSeconds: number
  readonly bound: Bound
}

/** The KV blocks that spans are cut into, in ascending order: `[start, end)` each, at most `blockTokens` long. */
export function blocksOf(spans: readonly Span[], blockTokens: number): Span[] {
  const blocks: Span[] = []
  for (const span of spans)
    for (let start = span.start; start < span.end; start += blockTokens)
      blocks.push({ start, end: Math.min(start + blockTokens, span.end) })
  return blocks
}
