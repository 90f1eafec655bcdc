import type { ModelShape } from '../../../shared/model-shape.ts'
import type { Wire } from '../../../shared/plan.ts'
import type { EncodedKv, Positions } from '../engine.ts'
import { checkEncoded, HostKv } from '../host-tensors.ts'
import { GraphBuilder } from '../onnx/graph-builder.ts'
import { SessionSet } from '../onnx/session-set.ts'
import { WIRE_GRAPHS } from '../onnx/wire-graphs.ts'
import { decodeKv, encodeKv } from '../onnx/wire-transport.ts'
import { type DeviceKv, loadSegment, storeSegment } from './device-kv.ts'
import type { DeviceSessions } from './device-sessions.ts'

/** Between a device's cache and the wire: through host memory, by the graphs that the CPU's engine uses. */
export class DeviceWire {
  readonly #shape: ModelShape
  readonly #device: DeviceSessions
  readonly #host: SessionSet

  private constructor(shape: ModelShape, device: DeviceSessions, host: SessionSet) {
    this.#shape = shape
    this.#device = device
    this.#host = host
  }

  static async create(shape: ModelShape, device: DeviceSessions, threads: number): Promise<DeviceWire> {
    const host = new SessionSet(threads)
    for (const [kind, graph] of Object.entries(WIRE_GRAPHS)) await host.add(kind, graph(shape, new GraphBuilder()))
    return new DeviceWire(shape, device, host)
  }

  /** Zeros where nothing was written. */
  async encode(kv: DeviceKv, range: Positions, wire: Wire): Promise<EncodedKv> {
    const copy = this.#hostKv(range)
    for (const { segment, start, count } of kv.parts(range)) {
      const { k, v } = await loadSegment(this.#device, segment, { start, count })
      const length = count * this.#shape.headDim
      for (let head = 0; head < this.#shape.kvHeads; head++) {
        copy.keys(head, start, count).set(k.subarray(head * length, (head + 1) * length))
        copy.values(head, start, count).set(v.subarray(head * length, (head + 1) * length))
      }
    }
    return encodeKv(this.#host, copy, range.start, range.count, wire)
  }

  async decode(kv: DeviceKv, range: Positions, encoded: EncodedKv): Promise<void> {
    const copy = this.#hostKv(range)
    checkEncoded(copy, range.count, encoded)
    await decodeKv(this.#host, copy, range.start, range.count, encoded)
    const { k_kvheads_cap_hdim: k, v_kvheads_cap_hdim: v } = copy
    const dims = [copy.kvHeads, range.count, copy.headDim]
    await kv.put(this.#device, await storeSegment(this.#device, range, dims, { k, v }))
  }

  release(): Promise<void> {
    return this.#host.release()
  }

  #hostKv({ start, count }: Positions): HostKv {
    const { kvHeads, headDim } = this.#shape
    const floats = kvHeads * count * headDim
    return new HostKv(start, count, kvHeads, headDim, new Float32Array(floats), new Float32Array(floats))
  }
}
