import type { ModelShape } from '../../../shared/model-shape.ts'
import { routeRows } from '../routing.ts'
import { type DeviceSessions, type DeviceTensor, type DeviceTensors, hostInts, hostTensor } from './device-sessions.ts'

/** A mixture of experts on a device: the router's choice is made by the host, between graphs. */
export class DeviceExperts {
  readonly #shape: ModelShape
  readonly #sessions: DeviceSessions

  constructor(shape: ModelShape, sessions: DeviceSessions) {
    this.#shape = shape
    this.#sessions = sessions
  }

  /** One pass per expert, over the rows of the chunk that go to it. */
  async mix(inputs: DeviceTensors, weights: readonly DeviceTensors[]): Promise<DeviceTensor> {
    const joined = await this.#sessions.run('join', inputs)
    const [input, ratings] = [joined['input']!, joined['ratings']!]
    const read = await this.#sessions.run('tableToHost', { x: ratings })
    ratings.dispose()
    let y = joined['residual']!
    for (const { expert, rows, weights: shares } of routeRows(read['y']!.data as Float32Array, this.#shape.experts!)) {
      const tokens = input.dims[0]!
      const places = new Float32Array(tokens * rows.length)
      rows.forEach((row, i) => {
        places[row * rows.length + i] = shares[i]!
      })
      const added = await this.#sessions.run('expert', {
        input,
        rows: hostInts(...rows),
        places: hostTensor(places, [tokens, rows.length]),
        residual: y,
        ...weights[expert],
      })
      y.dispose()
      y = added['y']!
    }
    input.dispose()
    return y
  }
}
