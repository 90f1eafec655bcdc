import { crc32 } from 'node:zlib'
import type { Wire } from '../../shared/plan.ts'
import type { Engine, Kv } from '../engine/engine.ts'
import type { KvBlock } from '../prefill/exchange.ts'

/** A whole `kv` as a block for the wire. The checksum is taken here, where the block is made. */
export async function exportBlock(engine: Engine, layer: number, kv: Kv, wire: Wire): Promise<KvBlock> {
  const encoded = await engine.exportKv(kv, kv.start, kv.capacity, wire)
  return { layer, start: kv.start, count: kv.capacity, crc32: crc32(encoded.bytes), ...encoded }
}

/** A received block as a `kv` of its own. */
export async function importBlock(engine: Engine, block: KvBlock): Promise<Kv> {
  const kv = engine.createKv(block.start, block.count)
  await engine.importKv(kv, block.start, block.count, block)
  return kv
}

/** Whether the bytes are those that the maker of the block summed. */
export const isIntact = (block: KvBlock): boolean => crc32(block.bytes) === block.crc32
