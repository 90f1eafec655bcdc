import { connect, type Socket } from 'node:net'

/** What is read before it is known where it belongs: the head of a frame, and so much of what follows as comes with it. */
const HEAD_BYTES = 2 ** 14

/**
 * On a slow link a frame comes in a thousand pieces, and waking up for each costs more than what is read. After a piece
 * smaller than this, with the frame not yet whole, the kernel collects for a moment.
 */
const SMALL_BYTES = 2 ** 16
const COLLECT_MS = 3

/** The end of the HTTP response that opens a WebSocket. */
const END_OF_RESPONSE = Buffer.from('\r\n\r\n')

/** Who takes what comes. */
export interface DirectReader {
  /** Where the next bytes are to be put; absent: anywhere, they will be copied. */
  readonly rest: Uint8Array | undefined
  /** Whether a frame has begun and is not whole. Bytes that are not in `rest` may be overwritten afterwards. */
  read(bytes: Uint8Array): boolean
}

/**
 * A dialled socket that is read straight to where the bytes are to stay. What comes goes the usual way, to whoever reads
 * the stream, until `divert` is called; from then on its caller has it, and `pass` puts on the stream what is not for him.
 */
export class DirectSocket {
  #socket: Socket | undefined
  #reader: DirectReader | undefined
  /** Where the next bytes are put. */
  #place: Buffer = Buffer.alloc(0)
  /** Whether the response that opens the WebSocket was the last thing on the stream. */
  #atStart = false

  /** To be called once. */
  connect(host: string, port: number): Socket {
    const head = Buffer.allocUnsafeSlow(HEAD_BYTES)
    const buffer = (): Buffer => {
      const rest = this.#reader?.rest
      this.#place = rest === undefined ? head : Buffer.from(rest.buffer, rest.byteOffset, rest.byteLength)
      return this.#place
    }
    const callback = (length: number): boolean => {
      const hasMore = length === this.#place.length
      const wantsMore = this.#take(this.#place.subarray(0, length))
      if (!wantsMore || hasMore || length >= SMALL_BYTES) return true
      setTimeout(() => this.#readOn(), COLLECT_MS)
      return false
    }
    this.#socket = connect({ host, port, onread: { buffer, callback } })
    return this.#socket
  }

  /** Takes effect if the stream stands at the start of a WebSocket frame, as it does unless a server is in a hurry. */
  divert(reader: DirectReader): void {
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
    if (this.#reader !== undefined) return this.#reader.read(bytes)
    this.#atStart = bytes.subarray(-END_OF_RESPONSE.length).equals(END_OF_RESPONSE)
    this.pass(bytes)
    this.#atStart = false
    return false
  }
}
