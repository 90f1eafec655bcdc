/** The little-endian fields of a GGUF header. Type numbers are `gguf_metadata_value_type`. */
export type MetadataValue =
  | { readonly text: string }
  | { readonly u16: number }
  | { readonly u32: number }
  | { readonly f32: number }
  | { readonly flag: boolean }
  | { readonly texts: readonly string[] }
  | { readonly i32s: readonly number[] }
  | { readonly f32s: readonly number[] }

export class Fields {
  readonly #parts: Uint8Array[] = []

  joined(): Uint8Array {
    return Buffer.concat(this.#parts)
  }

  entry(key: string, value: MetadataValue): void {
    this.text(key)
    if ('u16' in value) {
      this.u32(2)
      this.bytes(new Uint8Array(Uint16Array.of(value.u16).buffer))
    } else if ('u32' in value) {
      this.u32(4)
      this.u32(value.u32)
    } else if ('f32' in value) {
      this.u32(6)
      this.bytes(new Uint8Array(Float32Array.of(value.f32).buffer))
    } else if ('flag' in value) {
      this.u32(7)
      this.bytes(Uint8Array.of(value.flag ? 1 : 0))
    } else if ('text' in value) {
      this.u32(8)
      this.text(value.text)
    } else if ('texts' in value) {
      this.#array(8, value.texts.length)
      for (const text of value.texts) this.text(text)
    } else if ('i32s' in value) {
      this.#array(5, value.i32s.length)
      this.bytes(new Uint8Array(Int32Array.from(value.i32s).buffer))
    } else {
      this.#array(6, value.f32s.length)
      this.bytes(new Uint8Array(Float32Array.from(value.f32s).buffer))
    }
  }

  text(text: string): void {
    const bytes = Buffer.from(text)
    this.u64(bytes.length)
    this.bytes(bytes)
  }

  u32(value: number): void {
    this.bytes(new Uint8Array(Uint32Array.of(value).buffer))
  }

  u64(value: number): void {
    this.bytes(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer))
  }

  bytes(bytes: Uint8Array): void {
    this.#parts.push(bytes)
  }

  #array(type: number, count: number): void {
    this.u32(9)
    this.u32(type)
    this.u64(count)
  }
}
