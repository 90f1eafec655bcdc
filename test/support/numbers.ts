/** The largest absolute difference; infinite where lengths differ, NaN where any value is NaN. */
export function maxAbsDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let most = a.length === b.length ? 0 : Number.POSITIVE_INFINITY
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!)
    if (!(difference <= most)) most = difference
  }
  return most
}

export function argmax(values: ArrayLike<number>): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}

/** The natural logarithm of the probability that softmax gives `chosen`. */
export function logProbability(logits: Float32Array, chosen: number): number {
  const most = logits[argmax(logits)]!
  return logits[chosen]! - most - Math.log(logits.reduce((sum, x) => sum + Math.exp(x - most), 0))
}
