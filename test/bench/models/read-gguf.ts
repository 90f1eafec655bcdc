import { widenF16 } from '../../../worker/model/widen.ts'

/** Reads back what `writeGguf` writes, by the format's description and not by the writer's code. For tests. */
export interface GgufFile {
  readonly metadata: ReadonlyMap<string, unknown>
  /** Throws if the tensor is not float32. */
  f32(name: string): Float32Array
  /** The blocks of a `Q8_0` tensor: a scale for each 32 values. */
  q8(name: string): { scales: Float32Array; values: Int8Array }
}

export function readGguf(file: Buffer): GgufFile {
  const reader = new Reader(file)
  if (reader.raw(4).toString() !== 'GGUF' || reader.u32() !== 3) throw new Error('not GGUF version 3')
  const [tensorCount, metadataCount] = [reader.u64(), reader.u64()]
  const metadata = new Map(Array.from({ length: metadataCount }, () => [reader.text(), reader.value(reader.u32())]))
  const tensors = new Map(
    Array.from({ length: tensorCount }, () => {
      const name = reader.text()
      const dims = Array.from({ length: reader.u32() }, () => reader.u64())
      return [name, { elements: dims.reduce((a, b) => a * b, 1), type: reader.u32(), offset: reader.u64() }]
    }),
  )
  const data = Math.ceil(reader.at / 32) * 32
  const bytes = (name: string, type: number, perElement: number): Buffer => {
    const tensor = tensors.get(name)
    if (tensor?.type !== type || tensor.offset % 32 !== 0) throw new Error(`${name} is ${JSON.stringify(tensor)}`)
    return Buffer.from(file.subarray(data + tensor.offset, data + tensor.offset + tensor.elements * perElement))
  }
  return {
    metadata,
    f32(name) {
      const own = bytes(name, 0, 4)
      return Float32Array.from({ length: own.length / 4 }, (_, i) => own.readFloatLE(4 * i))
    },
    q8(name) {
      const own = bytes(name, 8, 34 / 32)
      const blocks = own.length / 34
      const scales = new Float32Array(blocks)
      widenF16(
        Uint16Array.from({ length: blocks }, (_, i) => own.readUInt16LE(34 * i)),
        scales,
      )
      const values = Int8Array.from({ length: blocks * 32 }, (_, i) =>
        own.readInt8(34 * Math.floor(i / 32) + 2 + (i % 32)),
      )
      return { scales, values }
    },
  }
}

class Reader {
  at = 0
  readonly #file: Buffer

  constructor(file: Buffer) {
    this.#file = file
  }

  raw(bytes: number): Buffer {
    this.at += bytes
    return this.#file.subarray(this.at - bytes, this.at)
  }

  u32 = (): number => this.raw(4).readUInt32LE()
  u64 = (): number => Number(this.raw(8).readBigUInt64LE())
  text = (): string => this.raw(this.u64()).toString()

  value(type: number): unknown {
    switch (type) {
      case 4:
        return this.u32()
      case 5:
        return this.raw(4).readInt32LE()
      case 6:
        return this.raw(4).readFloatLE()
      case 8:
        return this.text()
      case 9: {
        const inner = this.u32()
        return Array.from({ length: this.u64() }, () => this.value(inner))
      }
      default:
        throw new Error(`no reader for type ${type}`)
    }
  }
}
