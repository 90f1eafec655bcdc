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

interface Products {
  readonly shape: ModelShape
  readonly kind: CeilingKind
  readonly threads: number
}

/**
 * The product alone on given cores. A shared machine is now faster and now slower, so what a run reached is compared with
 * what the best of the products reached right before and after it.
 */
export class CeilingProbe {
  readonly #child: PinnedChild
  readonly #of: Products

  private constructor(child: PinnedChild, of: Products) {
    this.#child = child
    this.#of = of
  }

  static async start(of: Products & { readonly cores: string }, signal: AbortSignal): Promise<CeilingProbe> {
    return new CeilingProbe(await PinnedChild.start(CHILD, of.cores, signal), of)
  }

  /** Every product. */
  async all(): Promise<Ceiling> {
    const { shape, kind, threads } = this.#of
    const products = []
    for (const product of productsOf(shape)) products.push({ product, gflops: await this.gflops(product) })
    return { kind, threads, products, gflops: Math.max(...products.map(({ gflops }) => gflops)) }
  }

  /** One product, in this second. */
  async gflops(product: Product): Promise<number> {
    const { kind, threads } = this.#of
    const { ms } = await this.#child.ask<{ ms: number }>('product', { kind, threads, product })
    return (2 * product.m * product.k * product.n) / ms / 1e6
  }

  stop(): Promise<void> {
    return this.#child.stop()
  }
}

export const bestProduct = ({ products }: Ceiling): Product =>
  products.reduce((best, one) => (one.gflops > best.gflops ? one : best)).product

export const productText = ({ m, k, n }: Product): string => `${m}x${k}x${n}`
