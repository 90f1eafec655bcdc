import { fileURLToPath } from 'node:url'
import type { ModelShape } from '../../../shared/model-shape.ts'
import { PinnedChild } from './pinned-child.ts'

/** What the machine's matrix product reaches, to compare a whole model with. */

export type CeilingKind = 'f32' | 'int8'

/** [m, k] times [k, n]. */
export interface Product {
  readonly m: number
  readonly k: number
  readonly n: number
}

export interface Ceiling {
  readonly kind: CeilingKind
  readonly threads: number
  readonly products: readonly { product: Product; gflops: number }[]
  /** The best of them. */
  readonly gflops: number
}

const CHILD = fileURLToPath(new URL('../children/ceiling-child.js', import.meta.url))

/** A square product, and the model's own at the rows of a chunk and at twice as many. */
export function productsOf({ hidden, ffn }: ModelShape): Product[] {
  return [
    { m: 512, k: 2048, n: 2048 },
    { m: 512, k: hidden, n: ffn },
    { m: 256, k: hidden, n: 2 * ffn },
    { m: 256, k: ffn, n: hidden },
  ]
}

export async function measureCeiling(
  of: { shape: ModelShape; kind: CeilingKind; threads: number; cores: string },
  signal: AbortSignal,
): Promise<Ceiling> {
  const { kind, threads } = of
  const child = await PinnedChild.start(CHILD, of.cores, signal)
  try {
    const products = []
    for (const product of productsOf(of.shape)) {
      const { leastMs } = await child.ask<{ leastMs: number }>('product', { kind, threads, product })
      products.push({ product, gflops: (2 * product.m * product.k * product.n) / leastMs / 1e6 })
    }
    return { kind, threads, products, gflops: Math.max(...products.map(({ gflops }) => gflops)) }
  } finally {
    await child.stop()
  }
}

export const productText = ({ m, k, n }: Product): string => `${m}x${k}x${n}`
