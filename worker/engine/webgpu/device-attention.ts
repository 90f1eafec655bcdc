import { HeadraceError } from '../../../shared/errors.ts'
import type { Positions } from '../engine.ts'
import { keyRanges } from '../key-ranges.ts'
import { visibilityMask } from '../mask-cache.ts'
import { HIDDEN_KEY } from './attend-graph.ts'
import { DeviceCache } from './device-cache.ts'
import { cut, type DeviceKv, dispose, type Segment } from './device-kv.ts'
import type { DeviceModel } from './device-model.ts'
import { type DeviceSessions, type DeviceTensor, type DeviceTensors, hostTensor } from './device-sessions.ts'
import type { DeviceAccumulator, DeviceQuery, SoftmaxTensors } from './device-tensors.ts'

/**
 * Most bytes of the scores of one call. WebGPU promises a buffer of 128 MiB on every adapter, and the provider keeps
 * buffers of up to this size for the next call instead of asking the driver for a new one.
 */
const SCORE_BYTES = 128 << 20
/** A run uses very few: the diagonal, and one more where its last chunk is short. */
const MOST_MASKS = 8

/** Attention of a chunk to ranges of a cache, on the device. */
export class DeviceAttention {
  readonly #model: DeviceModel
  readonly #sessions: DeviceSessions
  readonly #masks = new DeviceCache(MOST_MASKS)

  constructor(model: DeviceModel, sessions: DeviceSessions) {
    this.#model = model
    this.#sessions = sessions
  }

  /** Folds the keys of `range` that the queries may see. Such a key that was never written is `internal`. */
  async fold(
    layer: number,
    query: DeviceQuery,
    kv: DeviceKv,
    range: Positions,
    into: DeviceAccumulator,
  ): Promise<void> {
    const window = this.#model.shape.layerShapes[layer]?.window
    const bytes = this.#model.element === 'float16' ? 2 : 4
    const maxKeys = Math.max(1, Math.floor(SCORE_BYTES / (this.#model.shape.heads * query.tokens * bytes)))
    for (const keys of keyRanges(query, range.start, range.start + range.count, maxKeys, window)) {
      const parts = kv.parts(keys)
      if (parts.reduce((sum, { count }) => sum + count, 0) < keys.count)
        throw new HeadraceError('internal', `not all keys of [${keys.start}, ${keys.start + keys.count}) are there`)
      for (const { segment, ...part } of parts) {
        const whole = part.count === segment.count
        const piece = whole ? segment : await cut(this.#sessions, segment, part)
        const mask = keys.masked
          ? await this.#mask(query.tokens, part.count, part.start - query.start, window)
          : undefined
        into.replace(await this.#foldPiece(query, piece, mask, into.state))
        if (!whole) dispose(piece)
      }
    }
  }

  async #foldPiece(
    { q }: DeviceQuery,
    { k, v }: Segment,
    mask: DeviceTensor | undefined,
    state: SoftmaxTensors | undefined,
  ): Promise<SoftmaxTensors> {
    const inputs: DeviceTensors = {
      q,
      k,
      v,
      ...(state === undefined ? {} : { o_old: state.o, l_old: state.l, m_old: state.m }),
      ...(mask === undefined ? {} : { mask }),
    }
    const kind = state === undefined ? 'attendFirst' : 'attend'
    const { o, l, m } = await this.#sessions.run(mask === undefined ? kind : `${kind}Masked`, inputs)
    return { o: o!, l: l!, m: m! }
  }

  /** The state of rows that have seen no key. */
  async empty(tokens: number): Promise<Omit<SoftmaxTensors, 'm'>> {
    const { kvHeads, heads, headDim } = this.#model.shape
    const rows = (heads / kvHeads) * tokens
    const zeros = async (width: number): Promise<DeviceTensor> => {
      const values = new Float32Array(kvHeads * rows * width)
      return (await this.#sessions.run('state', { x: hostTensor(values, [kvHeads, rows, width]) }))['y']!
    }
    return { o: await zeros(headDim), l: await zeros(1) }
  }

  /** Frees what is kept between calls. */
  trim(): void {
    this.#masks.clear()
  }

  /** Additive. It depends on relative positions only: `offset` is that of the first key to the first query. */
  #mask(queries: number, keys: number, offset: number, window?: number): Promise<DeviceTensor> {
    return this.#masks.get(`${queries} ${keys} ${offset} ${window}`, async () => {
      const mask = visibilityMask(queries, keys, offset, window, HIDDEN_KEY[this.#model.element])
      return (await this.#sessions.run('mask', { x: hostTensor(mask, [queries, keys]) }))['y']!
    })
  }
}
