/** RFC 6455, section 5.2: the first byte of a whole binary message, and what to read from the two first ones. */
const WHOLE_BINARY = 0x82
const OPCODE = 0x0f
const FIRST_CONTROL_OPCODE = 0x08
const LENGTH_16 = 126
const LENGTH_64 = 127
const LONGEST_HEAD = 10

/**
 * Takes whole binary messages out of what a WebSocket server sends. What is read to where `rest` says stays there, all else
 * is copied once. (`ws` collects chunks of 64 KiB, each in memory of its own, and puts them together: five times the work.)
 * What is no such message goes to `ws`: control frames singly, and from the first frame that is neither - text, a fragment,
 * one that is too long or breaks the protocol - everything, since `ws` knows what to do then.
 */
export class FrameReader {
  readonly #of: FrameReaderOptions
  readonly #head = new Uint8Array(LONGEST_HEAD)
  #headFilled = 0
  /** The message that is being filled. */
  #frame: Uint8Array | undefined
  #filled = 0
  /** Bytes that are still to be passed on as they come. */
  #passing = 0

  constructor(of: FrameReaderOptions) {
    this.#of = of
  }

  /** Where the bytes that come next belong, if a message has begun and is not whole. */
  get rest(): Uint8Array | undefined {
    return this.#frame?.subarray(this.#filled)
  }

  /** `bytes` may be overwritten afterwards, unless they lie in `rest`. Whether a message has begun and is not whole. */
  read(bytes: Uint8Array): boolean {
    let at = 0
    while (at < bytes.length) {
      if (this.#passing > 0) at += this.#pass(bytes.subarray(at))
      else if (this.#frame !== undefined) at += this.#fill(this.#frame, bytes.subarray(at))
      else {
        this.#head[this.#headFilled++] = bytes[at++]!
        if (this.#headFilled === headLength(this.#head, this.#headFilled)) this.#begin()
      }
    }
    return this.#frame !== undefined
  }

  /** The head of a frame is complete. */
  #begin(): void {
    const head = this.#head.subarray(0, this.#headFilled)
    this.#headFilled = 0
    const length = payloadLength(head)
    if (head[0] === WHOLE_BINARY && length <= this.#of.maxFrameBytes) {
      this.#frame = this.#of.allocate(length)
      this.#filled = 0
      if (length === 0) this.#fill(this.#frame, head.subarray(0, 0))
      return
    }
    this.#of.pass(head)
    const isControl = (head[0]! & OPCODE) >= FIRST_CONTROL_OPCODE && head.length === 2
    this.#passing = isControl ? length : Number.POSITIVE_INFINITY
  }

  #pass(bytes: Uint8Array): number {
    const passed = bytes.subarray(0, this.#passing)
    this.#passing -= passed.length
    this.#of.pass(passed)
    return passed.length
  }

  #fill(frame: Uint8Array, bytes: Uint8Array): number {
    const part = bytes.subarray(0, frame.length - this.#filled)
    const isInPlace = part.buffer === frame.buffer && part.byteOffset === frame.byteOffset + this.#filled
    if (!isInPlace) frame.set(part, this.#filled)
    this.#filled += part.length
    if (this.#filled === frame.length) {
      this.#frame = undefined
      this.#of.onFrame(frame)
    }
    return part.length
  }
}

/** Memory for a frame: that many bytes, with anything in them. */
export type Allocate = (length: number) => Uint8Array

export interface FrameReaderOptions {
  readonly maxFrameBytes: number
  readonly allocate: Allocate
  readonly onFrame: (frame: Uint8Array) => void
  /** Takes what is for `ws`. The bytes may be overwritten afterwards. */
  readonly pass: (bytes: Uint8Array) => void
}

/** Undefined until the two bytes that tell it are there. */
function headLength(head: Uint8Array, filled: number): number | undefined {
  if (filled < 2) return undefined
  return head[1] === LENGTH_64 ? LONGEST_HEAD : head[1] === LENGTH_16 ? 4 : 2
}

/** More than any frame may have if the payload is masked, which a server must not do. */
function payloadLength(head: Uint8Array): number {
  const { buffer, byteOffset } = head
  const view = new DataView(buffer, byteOffset, head.length)
  if (head.length === 2) return head[1]! > LENGTH_64 ? Number.POSITIVE_INFINITY : head[1]!
  return head.length === 4 ? view.getUint16(2) : Number(view.getBigUint64(2))
}
