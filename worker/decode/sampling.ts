import type { Sampling, TokenLogprob } from '../../shared/protocol/run-types.ts'
import { uniform } from './philox.ts'

/** The next token from its logits `[vocab]`. Pure: the same logits, parameters and position give the same token. */
export function sample(logits: Float32Array, sampling: Sampling, position: number): number {
  if (sampling.temperature === 0) return argmax(logits)
  const candidates = nucleus(logits, sampling)
  const total = candidates.reduce((sum, c) => sum + c.weight, 0)
  let left = uniform(sampling.seed, position) * total
  for (const { token, weight } of candidates) {
    left -= weight
    if (left < 0) return token
  }
  return candidates.at(-1)!.token
}

/** What a token that the model rules out (a logit of -inf) is reported with: JSON has no infinity. */
const LEAST_LOGPROB = -9999

/** Log-probabilities under the model's own distribution: of `token` and of the `count` most likely. */
export function logprobsOf(logits: Float32Array, token: number, count: number): TokenLogprob {
  const norm = logSumExp(logits)
  const logprobOf = (id: number): number => Math.max(logits[id]! - norm, LEAST_LOGPROB)
  const top = largest(logits, count).map((id) => ({ token: id, logprob: logprobOf(id) }))
  return { logprob: logprobOf(token), top }
}

/** The smallest id among the largest logits. */
export function argmax(logits: Float32Array): number {
  let best = 0
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id
  return best
}

export function logSumExp(logits: Float32Array): number {
  const max = logits[argmax(logits)]!
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - max)
  return max + Math.log(sum)
}

interface Candidate {
  readonly token: number
  readonly weight: number
}

/** Top-k, then the fewest tokens whose probability reaches top-p; always at least one. Weights are unnormalised. */
function nucleus(logits: Float32Array, { temperature, topK, topP }: Sampling): Candidate[] {
  const kept = topK > 0 && topK < logits.length ? largest(logits, topK) : largest(logits, logits.length)
  const max = logits[kept[0]!]!
  const candidates = kept.map((token) => ({ token, weight: Math.exp((logits[token]! - max) / temperature) }))
  if (topP === 1) return candidates
  const enough = topP * candidates.reduce((sum, c) => sum + c.weight, 0)
  let reached = 0
  const size = candidates.findIndex(({ weight }) => {
    reached += weight
    return reached >= enough
  })
  return candidates.slice(0, size < 0 ? candidates.length : size + 1)
}

/** Ids of the `count` largest logits, largest first, smaller ids first among equals. */
function largest(logits: Float32Array, count: number): number[] {
  if (count * 8 > logits.length) {
    const ids = Array.from(logits.keys())
    return ids.sort((a, b) => logits[b]! - logits[a]! || a - b).slice(0, count)
  }
  // Few of many: keep a short sorted list instead of sorting the vocabulary for every token.
  const ids: number[] = []
  for (let id = 0; id < logits.length; id++) {
    if (ids.length === count && logits[id]! <= logits[ids[count - 1]!]!) continue
    let place = ids.length
    while (place > 0 && logits[ids[place - 1]!]! < logits[id]!) place--
    ids.splice(place, 0, id)
    if (ids.length > count) ids.pop()
  }
  return ids
}
