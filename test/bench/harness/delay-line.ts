/** When bytes that set out now arrive. Pure: times are given, in seconds. */

/** A way that carries so many bytes per second, shared by all that use it. */
export class Pace {
  readonly #bytesPerSecond: number
  #free = 0

  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond
  }

  /** When the last of `bytes` has passed. */
  reserve(bytes: number, now: number): number {
    this.#free = Math.max(this.#free, now) + bytes / this.#bytesPerSecond
    return this.#free
  }
}

/** Pieces in the order in which they came, each held until it is due. */
export class DelayLine {
  readonly #delaySeconds: number
  readonly #pace: Pace | undefined
  readonly #waiting: { due: number; piece: Uint8Array }[] = []
  #heldBytes = 0

  constructor(delaySeconds: number, pace?: Pace) {
    this.#delaySeconds = delaySeconds
    this.#pace = pace
  }

  get heldBytes(): number {
    return this.#heldBytes
  }

  push(piece: Uint8Array, now: number): void {
    const passed = this.#pace?.reserve(piece.length, now) ?? now
    this.#waiting.push({ due: passed + this.#delaySeconds, piece })
    this.#heldBytes += piece.length
  }

  /** What is due by now, and when the next piece is. */
  take(now: number): { due: Uint8Array[]; next: number | undefined } {
    const first = this.#waiting.findIndex(({ due }) => due > now)
    const due = this.#waiting.splice(0, first < 0 ? this.#waiting.length : first).map(({ piece }) => piece)
    for (const piece of due) this.#heldBytes -= piece.length
    return { due, next: this.#waiting[0]?.due }
  }
}
