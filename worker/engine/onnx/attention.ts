import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Accumulator, Positions } from '../engine.ts'
import type { Floats, HostKv, HostQuery } from '../host-tensors.ts'
import { type KeyRange, keyRanges } from '../key-ranges.ts'
import { EMPTY_MAX, MaskCache } from '../mask-cache.ts'
import { type Strip, stripsOf } from './attend-graph.ts'
import { foldState } from './one-row.ts'
import type { SessionSet, Slot } from './session-set.ts'
import type { TensorPool } from './tensor-pool.ts'

/** Keys of one call to a graph: 512 measured best for chunks of 256 tokens. Fewer rows may see more at once. */
const KEYS_PER_CALL = 512
const SCORES_PER_CALL = KEYS_PER_CALL * 256

/** Rows below this are not worth being cut into strips. */
const LEAST_TRIANGLE = 64

/**
 * A row's sum of exp(score), no maximum taken off, stays within these, or the row is not in the safe range of float32:
 * above, a weight could overflow; below, weights that count could be lost.
 */
const LARGEST_SUM = 1e30
const LEAST_SUM = 1e-20

/**
 * The state of softmax over the keys seen so far: unnormalised output and sum of weights. A weight is exp(score - m), and
 * as long as `m` is absent it is 0 in every row.
 */
export class SoftmaxState implements Accumulator {
  readonly tokens: number
  o_heads_seq_hdim: Floats
  l_heads_seq: Floats
  m_heads_seq: Floats | undefined
  /** Only where a layer has a window: 1 for each query that has seen any key. */
  seen_seq: Uint8Array | undefined

  constructor(tokens: number, o_heads_seq_hdim: Floats, l_heads_seq: Floats) {
    this.tokens = tokens
    this.o_heads_seq_hdim = o_heads_seq_hdim
    this.l_heads_seq = l_heads_seq
  }
}

/**
 * Attention of a chunk to ranges of keys. Taking the row's maximum off its scores, as softmax is usually computed, costs
 * a sixth of it and is needed only where exp would leave float32's range: of the models people run, hardly ever. So it is
 * done without, the sums tell whether that was sound, and where it was not, the range is folded again with the maximum.
 */
export class Attention {
  readonly #shape: ModelShape
  readonly #graphs: SessionSet
  readonly #pool: TensorPool
  readonly #masks = new MaskCache()

  constructor(shape: ModelShape, graphs: SessionSet, pool: TensorPool) {
    this.#shape = shape
    this.#graphs = graphs
    this.#pool = pool
  }

  state(tokens: number): SoftmaxState {
    const rows = this.#shape.heads * tokens
    const o_heads_seq_hdim = this.#pool.take(rows * this.#shape.headDim).fill(0)
    return new SoftmaxState(tokens, o_heads_seq_hdim, this.#pool.take(rows).fill(0))
  }

  /** Folds the keys of `of` that the queries may see in this layer. */
  async fold(layer: number, query: HostQuery, kv: HostKv, of: Positions, state: SoftmaxState): Promise<void> {
    const window = this.#shape.layerShapes[layer]?.window
    const rows = (this.#shape.heads / this.#shape.kvHeads) * query.tokens
    const maxKeys = Math.max(KEYS_PER_CALL, Math.floor(SCORES_PER_CALL / rows))
    for (const range of keyRanges(query, of.start, of.start + of.count, maxKeys, window)) {
      const seen: Seen = { ...range, window }
      if (query.tokens === 1) await this.#foldOne(query, kv, range, state)
      else if (state.m_heads_seq !== undefined || !(await this.#foldUnshifted(query, kv, seen, state)))
        await this.#foldShifted(query, kv, seen, state)
    }
  }

  /** Leaves the state as it was, and returns false, if float32 is too small for it. */
  async #foldUnshifted(query: HostQuery, kv: HostKv, range: Seen, state: SoftmaxState): Promise<boolean> {
    const { o_heads_seq_hdim: o, l_heads_seq: l } = state
    const [nextO, nextL] = [this.#pool.take(o.length), this.#pool.take(l.length)]
    const own = range.masked && range.start === query.start && range.count === query.tokens
    const triangle = own && query.tokens >= LEAST_TRIANGLE
    const slots = this.#slots(query, kv, range, triangle ? stripsOf(query.tokens) : undefined)
    this.#perKvHead(slots, query, [
      { name: 'o', from: o, to: nextO },
      { name: 'l', from: l, to: nextL },
    ])
    const graph = triangle ? 'attendTriangle' : range.masked ? 'attendMasked' : 'attend'
    await this.#graphs.run(graph, slots.inputs, slots.outputs)
    const seen_seq = range.window === undefined ? undefined : seenSoFar(state.seen_seq, query, range, range.window)
    const sound = nextL.every((sum, row) =>
      seen_seq === undefined || seen_seq[row % query.tokens] ? sum >= LEAST_SUM && sum <= LARGEST_SUM : sum === 0,
    )
    if (sound) Object.assign(state, { o_heads_seq_hdim: nextO, l_heads_seq: nextL, seen_seq })
    for (const left of sound ? [o, l] : [nextO, nextL]) this.#pool.give(left)
    return sound
  }

  /** o and l are written in place, m beside itself. */
  async #foldShifted(query: HostQuery, kv: HostKv, range: Seen, state: SoftmaxState): Promise<void> {
    const { o_heads_seq_hdim: o, l_heads_seq: l } = state
    const m = this.#shift(state)
    const nextM = this.#pool.take(m.length)
    const slots = this.#slots(query, kv, range)
    this.#perKvHead(slots, query, [
      { name: 'o', from: o, to: o },
      { name: 'l', from: l, to: l },
      { name: 'm', from: m, to: nextM },
    ])
    await this.#graphs.run(range.masked ? 'attendShiftedMasked' : 'attendShifted', slots.inputs, slots.outputs)
    this.#pool.give(m)
    state.m_heads_seq = nextM
  }

  /** Queries, and of each strip of them the keys that it may see, their values and its mask. */
  #slots(query: HostQuery, kv: HostKv, range: Seen, strips = [whole(query, range)]): MutableSlots {
    const inputs: Record<string, Slot> = {}
    for (const { suffix, first, rows, keys } of strips) {
      for (let head = 0; head < this.#shape.kvHeads; head++) {
        inputs[`k${head}${suffix}`] = [kv.keys(head, range.start, keys), [keys, kv.headDim]]
        inputs[`v${head}${suffix}`] = [kv.values(head, range.start, keys), [keys, kv.headDim]]
      }
      const offset = range.start - query.start - first
      if (range.masked) inputs[`mask${suffix}`] = [this.#masks.get(rows, keys, offset, range.window), [rows, keys]]
    }
    const slots = { inputs, outputs: {} }
    this.#perKvHead(slots, query, [{ name: 'q', from: query.q_heads_seq_hdim }])
    return slots
  }

  /** Adds views of buffers that are heads first: the query heads of a KV head are the rows of one product. */
  #perKvHead({ inputs, outputs }: MutableSlots, { tokens }: HostQuery, buffers: readonly Buffers[]): void {
    const { heads, kvHeads } = this.#shape
    const group = heads / kvHeads
    for (const { name, from, to } of buffers) {
      const width = from.length / (heads * tokens)
      for (let head = 0; head < kvHeads; head++) {
        const ofHead = (all: Floats): Slot => [
          all.subarray(head * group * tokens * width, (head + 1) * group * tokens * width),
          [group, tokens, width],
        ]
        inputs[`${name}${head}`] = ofHead(from)
        if (to !== undefined) outputs[`${name}${head}_out`] = ofHead(to)
      }
    }
  }

  /** The same for a single query, which sees all of its range. */
  async #foldOne(query: HostQuery, kv: HostKv, range: KeyRange, state: SoftmaxState): Promise<void> {
    const { heads, headDim } = this.#shape
    const inputs: Record<string, Slot> = { q: [query.q_heads_seq_hdim, [heads, headDim, 1]] }
    addKeys(inputs, kv, range.start, range.count)
    const [o, l, m] = [this.#pool.take(heads * headDim), this.#pool.take(heads), this.#pool.take(heads)]
    await this.#graphs.run('attendOne', inputs, {
      o: [o, [heads, 1, headDim]],
      l: [l, [heads, 1, 1]],
      m: [m, [heads, 1, 1]],
    })
    const { o_heads_seq_hdim, l_heads_seq } = state
    foldState(
      { o_heads_seq_hdim, l_heads_seq, m_heads_seq: this.#shift(state) },
      { o_heads_seq_hdim: o, l_heads_seq: l, m_heads_seq: m },
    )
    for (const buffer of [o, l, m]) this.#pool.give(buffer)
  }

  /** From here on every row has a maximum: 0 is what it had so far, if it has seen a key at all. */
  #shift(state: SoftmaxState): Floats {
    if (state.m_heads_seq !== undefined) return state.m_heads_seq
    const m_heads_seq = this.#pool.take(state.l_heads_seq.length)
    for (const [row, sum] of state.l_heads_seq.entries()) m_heads_seq[row] = sum > 0 ? 0 : EMPTY_MAX
    state.m_heads_seq = m_heads_seq
    return m_heads_seq
  }
}

/** Keys and values of all heads at `[start, start + count)`, as a graph of one row reads them. */
export function addKeys(inputs: Record<string, Slot>, kv: HostKv, start: number, count: number, scope = ''): void {
  for (let head = 0; head < kv.kvHeads; head++) {
    inputs[`${scope}k${head}`] = [kv.keys(head, start, count), [1, count, kv.headDim]]
    inputs[`${scope}v${head}`] = [kv.values(head, start, count), [1, count, kv.headDim]]
  }
}

/** All queries as one strip. */
const whole = ({ tokens }: HostQuery, { count }: KeyRange): Strip => ({
  suffix: '',
  first: 0,
  rows: tokens,
  keys: count,
})

/** Keys of one call, and how far back a query sees. */
interface Seen extends KeyRange {
  readonly window: number | undefined
}

/** 1 for each query that has seen a key, here or before: a sum of 0 says nothing is lost only where there was nothing. */
function seenSoFar(before: Uint8Array | undefined, query: HostQuery, range: KeyRange, window: number): Uint8Array {
  return Uint8Array.from({ length: query.tokens }, (_, t) => {
    const position = query.start + t
    const first = Math.max(range.start, position - window + 1)
    return before?.[t] || first <= Math.min(range.start + range.count - 1, position) ? 1 : 0
  })
}

interface MutableSlots {
  readonly inputs: Record<string, Slot>
  readonly outputs: Record<string, Slot>
}

interface Buffers {
  readonly name: string
  readonly from: Floats
  readonly to?: Floats
}
