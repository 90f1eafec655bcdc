import { crc32 } from 'node:zlib'
import type { Wire } from '../../shared/plan.ts'
import type { Engine, Kv } from '../engine/engine.ts'
import type { KvBlock } from '../prefill/exchange.ts'

/** A whole `kv` as a block for the wire. The checksum is taken here, where the block is made. */
export async function exportBlock(engine: Engine, layer: number, kv: Kv, wire: Wire): Promise<KvBlock> {
  const encoded = await engine.exportKv(kv, kv.start, kv.capacity, wire)
  return summed({ layer, start: kv.start, count: kv.capacity, ...encoded })
}

type Unsummed = Omit<KvBlock, 'crc32' | 'bytes'> & { readonly bytes: Uint8Array }

/** Of the bytes and of their place: a header that came damaged must not make a block pass for another one. */
const sumOf = ({ layer, start, count, bytes }: Unsummed): number =>
  crc32(bytes, crc32(new Uint8Array(Int32Array.of(layer, start, count).buffer)))

/** The block with its checksum. */
export const summed = <B extends Unsummed>(block: B): B & { readonly crc32: number } => ({
  ...block,
  crc32: sumOf(block),
})

/** A received block as a `kv` of its own. */
export async function importBlock(engine: Engine, block: KvBlock): Promise<Kv> {
  const kv = engine.createKv(block.start, block.count)
  await engine.importKv(kv, block.start, block.count, block)
  return kv
}

/** Whether bytes and place are those that the maker of the block summed. */
export const isIntact = (block: Unsummed & { readonly crc32: number }): boolean => sumOf(block) === block.crc32
