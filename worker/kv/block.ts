import { crc32 } from 'node:zlib'
import { HeadraceError } from '../../shared/errors.ts'
import type { Wire } from '../../shared/plan.ts'
import type { Engine, Kv } from '../engine/engine.ts'
import type { KvBlock } from '../prefill/exchange.ts'

/** A whole `kv` as a block for the wire. The checksum is taken here, where the block is made. */
export async function exportBlock(engine: Engine, layer: number, kv: Kv, wire: Wire): Promise<KvBlock> {
  const encoded = await engine.exportKv(kv, kv.start, kv.capacity, wire)
  return { layer, start: kv.start, count: kv.capacity, crc32: crc32(encoded.bytes), ...encoded }
}

/** A received block as a `kv` of its own, after checking that it is what its maker sent. */
export async function importBlock(engine: Engine, block: KvBlock): Promise<Kv> {
  checkBlock(block)
  const kv = engine.createKv(block.start, block.count)
  await engine.importKv(kv, block.start, block.count, block)
  return kv
}

/** Throws `kv_checksum` if the bytes are not those the maker of the block summed. */
export function checkBlock(block: KvBlock): void {
  const found = crc32(block.bytes)
  if (found === block.crc32) return
  throw new HeadraceError('kv_checksum', `KV block of layer ${block.layer} at position ${block.start} is damaged`, {
    details: { layer: block.layer, start: block.start, count: block.count, expected: block.crc32, found },
  })
}
