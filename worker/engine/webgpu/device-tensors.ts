import type { Accumulator, Hidden, Query } from '../engine.ts'
import type { DeviceTensor } from './device-sessions.ts'

/** The tensors of an engine whose memory is a device's. */
export class DeviceHidden implements Hidden {
  readonly tokens: number
  /** [1, tokens, hidden] float32; made on the device by the first call that needs it, where it comes from the host. */
  readonly x: Promise<DeviceTensor>

  constructor(tokens: number, x: Promise<DeviceTensor>) {
    this.tokens = tokens
    this.x = x
    x.catch(() => undefined) // told to who uses it
  }
}

/** q, scaled: [kvHeads, group * tokens, headDim], the query heads of a KV head below each other. */
export class DeviceQuery implements Query {
  readonly start: number
  readonly tokens: number
  readonly q: DeviceTensor

  constructor(start: number, tokens: number, q: DeviceTensor) {
    this.start = start
    this.tokens = tokens
    this.q = q
  }
}

/** The state of online softmax, float32: unnormalised output, sum of weights, running maximum. */
export interface SoftmaxTensors {
  readonly o: DeviceTensor
  readonly l: DeviceTensor
  readonly m: DeviceTensor
}

/** Absent while no key has been seen. */
export class DeviceAccumulator implements Accumulator {
  readonly tokens: number
  state: SoftmaxTensors | undefined

  constructor(tokens: number) {
    this.tokens = tokens
  }

  /** Takes the state over; what was before is gone. */
  replace(state: SoftmaxTensors | undefined): void {
    for (const tensor of Object.values(this.state ?? {}) as DeviceTensor[]) tensor.dispose()
    this.state = state
  }
}
