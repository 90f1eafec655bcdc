import { connect, type Socket } from 'node:net'

/** What one read takes in at most. Larger reads are fewer; beyond this the buffer leaves the core's own cache. */
const READ_BYTES = 2 ** 18

/**
 * On a slow link a frame comes in a thousand pieces, and waking up for each costs more than what is read. After a piece
 * smaller than this, with the frame not yet whole, the kernel collects for a moment.
 */
const SMALL_BYTES = 2 ** 16
const COLLECT_MS = 3

/** The end of the HTTP response that opens a WebSocket. */
const END_OF_RESPONSE = Buffer.from('\r\n\r\n')

/**
 * A dialled socket that is read into one buffer over and over. What comes goes the usual way, to whoever reads the
 * stream, until `divert` is called; from then on its caller has it, and `pass` puts on the stream what is not for him.
 */
export class DirectSocket {
  #socket: Socket | undefined
  #reader: ((bytes: Uint8Array) => boolean) | undefined
  /** Whether the response that opens the WebSocket was the last thing on the stream. */
  #atStart = false

  /** To be called once. */
  connect(host: string, port: number): Socket {
    const buffer = Buffer.allocUnsafeSlow(READ_BYTES)
    const callback = (length: number): boolean => {
      const wantsMore = this.#take(buffer.subarray(0, length))
      if (!wantsMore || length >= SMALL_BYTES) return true
      setTimeout(() => this.#readOn(), COLLECT_MS)
      return false
    }
    this.#socket = connect({ host, port, onread: { buffer, callback } })
    return this.#socket
  }

  /**
   * Takes effect if the stream stands at the start of a WebSocket frame, as it does unless a server is in a hurry. The reader
   * says whether a frame has begun and is not whole.
   */
  divert(reader: (bytes: Uint8Array) => boolean): void {
    if (this.#atStart) this.#reader = reader
  }

  /** `bytes` may be overwritten afterwards. */
  pass(bytes: Uint8Array): void {
    this.#socket?.push(Buffer.from(bytes))
  }

  /** Unless somebody has paused it meanwhile, who will resume it. */
  #readOn(): void {
    if (this.#socket?.isPaused() === false) this.#socket.resume()
  }

  /** Whether a frame has begun and is not whole. */
  #take(bytes: Buffer): boolean {
    if (this.#reader !== undefined) return this.#reader(bytes)
    this.#atStart = bytes.subarray(-END_OF_RESPONSE.length).equals(END_OF_RESPONSE)
    this.pass(bytes)
    this.#atStart = false
    return false
  }
}
