import type { Rows } from '../../../model/rows.ts'
import type { KeepStored } from '../../../model/weights.ts'
import type { Floats } from '../../host-tensors.ts'
import type { GraphBuilder, Value } from '../graph-builder.ts'
import type { Slots } from '../session-set.ts'

/** A matrix as the checkpoint has it. */
export interface Dense {
  readonly values_out_in: Floats
  readonly out: number
  readonly in: number
  /** It is multiplied by what `multiplicand` prepares as `fine`. */
  readonly fine?: boolean
}

/**
 * One way to keep the weights of the linear layers, and the piece of a graph that multiplies by them. Weights are inputs
 * of the graph, so that one session serves all layers.
 */
export interface LinearFormat<M> {
  keep(matrix: Dense): M
  /** What a GGUF file has in blocks may need no detour over float32. */
  readonly keepStored?: KeepStored<M>
  /** The head as one matrix or as several, one below the other. */
  keepHead(rows_vocab_dim: Rows, dim: number): M[]
  /** How the embedding table is kept. */
  keepRows(values_vocab_dim: Floats, dim: number): Rows
  /**
   * Prepares x, [.., width], for one or more products. `fine`: rounding x must not show. Behind the MLP's gate a few of
   * its entries are far larger than the rest; and what attention has gathered is the only trace of tokens long ago.
   */
  multiplicand: PrepareX
  /** The same for the head, where that is kept in another way than the layers. */
  readonly head?: PrepareX
  /** What a call reads for the weight of that name. Valid until the next call with the same name. */
  slots(name: string, matrix: M): Slots
}

/** What is needed of a format once the matrices are kept. */
export type FormatInUse<M> = Omit<LinearFormat<M>, 'keep' | 'keepStored'>

/** A format of single rows for matrices that another one keeps for many, which it may share. */
export interface RowFormat<P, M> extends FormatInUse<P> {
  /** @param kept the same matrix, as it is kept for many rows */
  keep(matrix: Dense, kept: M): P
}

type PrepareX = (g: GraphBuilder, x: Value, width: number, fine?: boolean) => Multiplicand

/** What a graph needs to know of how weights are kept. */
export type Linear = Pick<LinearFormat<unknown>, 'multiplicand'>

/** Declares the weight `name`, [out, width], as inputs of the graph and returns x W^T, [.., out]. */
export type Multiplicand = (name: string, out: number | string) => Value
