/** Vectors of logits, compared. Pure. */

/** The place of the largest; of equals the first. */
export function largest(values: Float32Array): number {
  let at = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[at]!) at = i
  return at
}

/** Over the ten largest of `reference`: the largest difference. */
export function topTenError(reference: Float32Array, found: Float32Array): number {
  const order = [...reference.keys()].sort((a, b) => reference[b]! - reference[a]!)
  return Math.max(...order.slice(0, 10).map((id) => Math.abs(reference[id]! - found[id]!)))
}

/** Kullback-Leibler divergence, in nats, of the distribution that `found` describes from that of `reference`. */
export function divergence(reference: Float32Array, found: Float32Array): number {
  const [p, q] = [logSoftmax(reference), logSoftmax(found)]
  let sum = 0
  for (let i = 0; i < p.length; i++) sum += Math.exp(p[i]!) * (p[i]! - q[i]!)
  return Math.max(0, sum) // rounding alone can make it negative
}

function logSoftmax(logits: Float32Array): Float64Array {
  const top = logits[largest(logits)]!
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - top)
  const logSum = top + Math.log(sum)
  return Float64Array.from(logits, (logit) => logit - logSum)
}
