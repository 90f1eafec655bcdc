/**
 * How long a plan will take, before links and memory are measured: arithmetic plus latency. A chain pays latency once
 * per hop and prompt, because upstream workers run ahead; a ring pays it at every hop of every layer, because each
 * worker waits for all others (simulated: 7 hops of 20 ms cost a 16-layer model 0.14 s on a chain, 2.2 s on a ring).
 */
import type { ModelShape } from '../../shared/model-shape.ts'
import type { Bound, Span, Strategy } from '../../shared/plan.ts'
import type { Cost } from '../../shared/protocol/control.ts'
import { prefillSeconds, projectSeconds } from './cost.ts'

/** A worker and what it would compute. */
export interface Part {
  readonly worker: { readonly cost: Cost; readonly rttSeconds?: number }
  readonly spans: readonly Span[]
}

export interface Prediction {
  readonly ttftSeconds: number
  readonly bound: Bound
}

/** One way to a worker whose round trip is not known yet: a wired local network. */
const DEFAULT_HOP_SECONDS = 0.0005

/** `lastTokenSeconds` is the decode node's part. Tokenizer, queue, head and sampling are not predicted. */
export function predict(
  strategy: Strategy,
  parts: readonly Part[],
  shape: ModelShape,
  lastTokenSeconds: number,
): Prediction {
  const compute = strategy === 'chain' ? chainSeconds(parts, shape) : slowestSeconds(parts, shape)
  const latency = exchangeSeconds(strategy, parts, shape) + handOffSeconds(parts)
  const ttftSeconds = compute + latency + lastTokenSeconds
  return { ttftSeconds, bound: latency > ttftSeconds / 2 ? 'latency' : 'compute' }
}

const slowestSeconds = (parts: readonly Part[], shape: ModelShape): number =>
  Math.max(0, ...parts.map(({ worker, spans }) => prefillSeconds(worker.cost, spans, shape)))

/**
 * All start together, so in the first layer a worker waits until the slowest upstream has projected its K and V, and
 * from then on upstream is ahead: the pipeline fills once, for less than a layer's time.
 */
function chainSeconds(parts: readonly Part[], shape: ModelShape): number {
  let upstream = 0
  const finished = parts.map(({ worker: { cost }, spans }) => {
    const own = projectSeconds(cost, spans, shape)
    upstream = Math.max(upstream, own)
    return prefillSeconds(cost, spans, shape) + upstream - own
  })
  return Math.max(0, ...finished)
}

function exchangeSeconds(strategy: Strategy, parts: readonly Part[], shape: ModelShape): number {
  switch (strategy) {
    case 'solo':
      return 0
    case 'chain':
      return parts.slice(1).reduce((sum, part, i) => sum + Math.max(hopSeconds(part), hopSeconds(parts[i]!)), 0)
    case 'ring':
      // all links turn at once, so the slowest sets every hop; the last layer attends to nothing
      return (shape.layers - 1) * (parts.length - 1) * handOffSeconds(parts)
  }
}

/** The decode node fetches from all workers at once: the farthest arrives last. */
const handOffSeconds = (parts: readonly Part[]): number => Math.max(0, ...parts.map(hopSeconds))

const hopSeconds = ({ worker: { rttSeconds } }: Part): number =>
  rttSeconds === undefined ? DEFAULT_HOP_SECONDS : rttSeconds / 2
