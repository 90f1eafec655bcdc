/** Which pieces of a model somebody has: one bit each, the first piece in the lowest bit of the first byte. */
export class PieceSet {
  readonly #bits: Uint8Array
  readonly length: number
  #count = 0

  /** @param bits of another, copied; bits beyond `length` are ignored */
  constructor(length: number, bits?: Uint8Array) {
    this.length = length
    this.#bits = new Uint8Array(Math.ceil(length / 8))
    if (bits === undefined) return
    for (let i = 0; i < length; i++) if (((bits[i >> 3] ?? 0) >> (i & 7)) & 1) this.add(i)
  }

  has(piece: number): boolean {
    return ((this.#bits[piece >> 3] ?? 0) >> (piece & 7)) % 2 === 1
  }

  add(piece: number): void {
    if (piece >= this.length || this.has(piece)) return
    this.#bits[piece >> 3]! |= 1 << (piece & 7)
    this.#count++
  }

  get count(): number {
    return this.#count
  }

  /** A copy, for a message. */
  get bytes(): Uint8Array {
    return this.#bits.slice()
  }
}
