import fc from 'fast-check'
import { type DecodeFacts, type LinkFacts, linkKey, type PrefillFacts } from '../../../coordinator/planning/facts.ts'
import { asWorkerId } from '../../../shared/ids.ts'
import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Cost } from '../../../shared/protocol/control.ts'
import { llamaShape } from '../../support/llama-shape.ts'

/** Published shapes, and the cost that their FLOP counts give: a per token, b per token and token before it. */
const shape = (
  layers: number,
  hidden: number,
  heads: number,
  kvHeads: number,
  headDim: number,
  ffn: number,
): ModelShape =>
  llamaShape(
    { layers, hidden, heads, kvHeads, headDim, ffn, vocab: 128_256, contextLength: 131_072, tiedHead: false },
    { kind: 'default', theta: 500_000 },
  )

export const LLAMA_7B = shape(32, 4096, 32, 32, 128, 11_008)
export const LLAMA_32_1B = shape(16, 2048, 32, 8, 64, 8192)
export const LLAMA_31_8B = shape(32, 4096, 32, 8, 128, 14_336)
export const QWEN_25_HALF_B = shape(24, 896, 14, 2, 64, 4864)

/** What a worker of this many FLOP/s costs that is limited by arithmetic alone (causal kernel). */
export function flopCost({ hidden, heads, kvHeads, headDim, ffn }: ModelShape, flops: number, o = 0): Cost {
  const linear = 2 * (2 * hidden * heads * headDim + 2 * hidden * kvHeads * headDim + 3 * hidden * ffn)
  return { o, a: linear / flops, b: (4 * heads * headDim) / flops }
}

/** From GPUs that are done in no time to boards that take a minute, attention from free to dominant; zeros included. */
export const anyCost: fc.Arbitrary<Cost> = fc.record({
  o: fc.oneof(fc.constant(0), fc.double({ min: 1e-6, max: 5e-2, noNaN: true })),
  a: fc.oneof(fc.constant(0), fc.double({ min: 1e-8, max: 1e-3, noNaN: true })),
  b: fc.oneof(fc.constant(0), fc.double({ min: 1e-13, max: 1e-7, noNaN: true })),
})

/** Costs that a calibration can yield: something depends on the number of tokens. */
export const positiveCost = anyCost.filter(({ a }) => a > 0)

export const manyCosts = fc.array(positiveCost, { minLength: 1, maxLength: 8 })

export const promptLength = fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 41, max: 200_000 }))

/** A worker on a host of its own. */
export const named = (name: string, cost: Cost, rest: Partial<PrefillFacts> = {}): PrefillFacts => ({
  id: asWorkerId(name),
  host: `host of ${name}`,
  cores: 8,
  threads: 8,
  runs: 0,
  cost,
  ...rest,
})

/** As many workers of one cost as asked for, `w1`, `w2`, ... */
export const equalWorkers = (count: number, cost: Cost) =>
  Array.from({ length: count }, (_, i) => named(`w${i + 1}`, cost))

export const decodeNode = (rest: Partial<DecodeFacts> = {}): DecodeFacts => ({
  id: asWorkerId('d1'),
  host: 'host of d1',
  cores: 8,
  threads: 8,
  runs: 0,
  ...rest,
})

/** Between all of these, as `rate` says in bytes per second. */
export function linksBetween(
  hosts: readonly { readonly id: string }[],
  rate: (from: string, to: string) => number,
  rttSeconds = 2e-4,
): Map<string, LinkFacts> {
  const pairs = hosts.flatMap(({ id: from }) => hosts.map(({ id: to }) => [from, to] as const))
  return new Map(
    pairs
      .filter(([from, to]) => from !== to)
      .map(([from, to]) => [linkKey(from, to), { bytesPerSecond: rate(from, to), rttSeconds }]),
  )
}

/** 10 Gbit/s of payload on a local network. */
export const FAST = 1.1e9

/** Every property runs on the same cases each time. */
export const SEEDED = { seed: 20_260_801, numRuns: 400 }
