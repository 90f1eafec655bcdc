import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'

/** Where a run of inputs is, in a file: an aborted process cannot say any more which input it was at. */
export class Position {
  readonly #file: number
  readonly #bytes = new Uint32Array(1)

  constructor(path: string) {
    this.#file = openSync(path, 'w')
  }

  set(index: number): void {
    this.#bytes[0] = index
    writeSync(this.#file, this.#bytes, 0, 4, 0)
  }

  close(): void {
    closeSync(this.#file)
  }

  /** Undefined before the first input. */
  static read(path: string): number | undefined {
    const bytes = readFileSync(path)
    return bytes.length < 4 ? undefined : bytes.readUInt32LE()
  }
}
