import type { ExpertsShape } from '../../shared/model-shape.ts'

/** The rows of a chunk that go to one expert, and what each row's result counts. */
export interface ExpertRows {
  readonly expert: number
  readonly rows: Int32Array
  readonly weights: Float32Array
}

/**
 * Groups a chunk's rows by expert: softmax over all experts' ratings, the `perToken` best of them, their weights made to sum
 * to 1 where the model does so (arXiv 2401.04088, section 2.1). Experts that no row goes to are left out. Of equal ratings
 * the lower expert goes first.
 *
 * @param ratings_seq_experts the router's outputs
 */
export function routeRows(
  ratings_seq_experts: Float32Array,
  { count, perToken, renormalised }: ExpertsShape,
): ExpertRows[] {
  const rows = ratings_seq_experts.length / count
  const chosen: { rows: number[]; weights: number[] }[] = Array.from({ length: count }, () => ({
    rows: [],
    weights: [],
  }))
  for (let row = 0; row < rows; row++) {
    const ratings = ratings_seq_experts.subarray(row * count, (row + 1) * count)
    const most = ratings.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
    const weights = Array.from(ratings, (rating) => Math.exp(rating - most))
    const best = highest(ratings, perToken)
    const among = renormalised ? best.map((expert) => weights[expert]!) : weights
    const sum = among.reduce((a, b) => a + b, 0)
    for (const expert of best) {
      chosen[expert]!.rows.push(row)
      chosen[expert]!.weights.push(weights[expert]! / sum)
    }
  }
  return chosen.flatMap(({ rows: own, weights }, expert) =>
    own.length === 0 ? [] : [{ expert, rows: Int32Array.from(own), weights: Float32Array.from(weights) }],
  )
}

/** Places of the `most` highest ratings, the highest first; of equal ones the lower place. */
function highest(ratings: Float32Array, most: number): number[] {
  const places: number[] = []
  for (const [at, rating] of ratings.entries()) {
    if (places.length === most && !(rating > ratings[places.at(-1)!]!)) continue
    let to = places.length
    while (to > 0 && rating > ratings[places[to - 1]!]!) to--
    places.splice(to, 0, at)
    if (places.length > most) places.pop()
  }
  return places
}

/** The rows of `x_seq_dim` with these numbers, below each other. */
export function gather(x_seq_dim: Float32Array, dim: number, rows: Int32Array, out: Float32Array): void {
  rows.forEach((row, i) => {
    out.set(x_seq_dim.subarray(row * dim, (row + 1) * dim), i * dim)
  })
}

/** Adds each row of `y`, times its weight, to its row of `x_seq_dim`. */
export function scatterAdd(x_seq_dim: Float32Array, dim: number, { rows, weights }: ExpertRows, y: Float32Array): void {
  rows.forEach((row, i) => {
    const weight = weights[i]!
    for (let at = 0; at < dim; at++) x_seq_dim[row * dim + at] = x_seq_dim[row * dim + at]! + weight * y[i * dim + at]!
  })
}
