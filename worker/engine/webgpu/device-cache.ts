import type { DeviceTensor } from './device-sessions.ts'

/** Keeps what was copied to the device last, by name: what a chunk needs, every layer needs again. */
export class DeviceCache {
  readonly #most: number
  readonly #tensors = new Map<string, DeviceTensor>()

  constructor(most: number) {
    this.#most = most
  }

  async get(name: string, make: () => Promise<DeviceTensor>): Promise<DeviceTensor> {
    const found = this.#tensors.get(name) ?? (await make())
    this.#tensors.delete(name) // and to the end: the map's order is that of last use
    this.#tensors.set(name, found)
    for (const [oldest, tensor] of this.#tensors) {
      if (this.#tensors.size <= this.#most) break
      this.#tensors.delete(oldest)
      tensor.dispose()
    }
    return found
  }

  clear(): void {
    for (const tensor of this.#tensors.values()) tensor.dispose()
    this.#tensors.clear()
  }
}
