import { HeadraceError } from '../errors.ts'

/** More of the file must be read before its header can be parsed: at least so many bytes from its beginning. */
export class Incomplete extends Error {
  readonly bytes: number

  constructor(bytes: number) {
    super(`${bytes} bytes are needed`)
    this.bytes = bytes
  }
}

/** A token may begin with a byte order mark, which is then part of it. */
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Goes through the little-endian fields at the beginning of a file. Every length is checked against the file's own. */
export class Cursor {
  at = 0
  readonly file: string
  readonly #bytes: Uint8Array<ArrayBuffer>
  readonly #view: DataView
  readonly #fileBytes: number

  constructor(bytes: Uint8Array<ArrayBuffer>, fileBytes: number, file: string) {
    this.file = file
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#fileBytes = fileBytes
  }

  /** Passes over `length` bytes that are there, and says where they begin. */
  skip(length: number): number {
    const [start, end] = [this.at, this.at + length]
    if (end > this.#fileBytes) throw malformed(this.file, `its header claims ${end} bytes, it has ${this.#fileBytes}`)
    if (end > this.#bytes.length) throw new Incomplete(end)
    this.at = end
    return start
  }

  /** A view of `length` bytes. */
  take(length: number): Uint8Array<ArrayBuffer> {
    const start = this.skip(length)
    return this.#bytes.subarray(start, start + length)
  }

  u8 = (): number => this.#view.getUint8(this.skip(1))
  i8 = (): number => this.#view.getInt8(this.skip(1))
  u16 = (): number => this.#view.getUint16(this.skip(2), true)
  i16 = (): number => this.#view.getInt16(this.skip(2), true)
  u32 = (): number => this.#view.getUint32(this.skip(4), true)
  i32 = (): number => this.#view.getInt32(this.skip(4), true)
  u64 = (): bigint => this.#view.getBigUint64(this.skip(8), true)
  i64 = (): bigint => this.#view.getBigInt64(this.skip(8), true)
  f32 = (): number => this.#view.getFloat32(this.skip(4), true)
  f64 = (): number => this.#view.getFloat64(this.skip(8), true)

  /** A 64-bit size that is an exact number. */
  size(what: string): number {
    const value = this.u64()
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw malformed(this.file, `${what} is ${value}`)
    return Number(value)
  }

  count(limit: number, of: string): number {
    const count = this.size(`the number of ${of}`)
    if (count > limit) throw malformed(this.file, `it claims ${count} ${of}, ${limit} are possible`)
    return count
  }

  text(limit: number): string {
    return decodeText(this.take(this.textLength(limit)), this.file)
  }

  textLength(limit: number): number {
    const length = this.size('the length of a text')
    if (length > limit) throw malformed(this.file, `a text has ${length} bytes, ${limit} are possible`)
    return length
  }
}

export function decodeText(bytes: Uint8Array, file: string): string {
  try {
    return utf8.decode(bytes)
  } catch (cause) {
    throw new HeadraceError('model_bad_weights', `${file}: a text in its header is not UTF-8`, { cause })
  }
}

/** A hostile name may be long: the message shows its beginning. */
export const malformed = (file: string, what: string) =>
  new HeadraceError('model_bad_weights', `${file}: ${what.slice(0, 300)}`)
