import { HeadraceError } from '../../shared/errors.ts'
import type { Wanted } from './expected-blocks.ts'

/** Which blocks of a decode node's cache are asked for, as the payload of `subscribe`: three int32 little-endian each. */
export function packWanted(wanted: readonly Wanted[]): Uint8Array {
  const numbers = Int32Array.from(wanted.flatMap(({ layer, start, count }) => [layer, start, count]))
  return new Uint8Array(numbers.buffer)
}

/** Throws `frame_bad_schema` if the payload is not of whole blocks, or of more than there can be. */
export function unpackWanted(payload: Uint8Array, most: number): Wanted[] {
  const count = payload.byteLength / NUMBERS / 4
  if (!Number.isInteger(count) || count > most)
    throw new HeadraceError('frame_bad_schema', `${payload.byteLength} bytes are no list of at most ${most} blocks`)
  const numbers = new Int32Array(payload.slice().buffer)
  return Array.from({ length: count }, (_, i) => ({
    layer: numbers[NUMBERS * i]!,
    start: numbers[NUMBERS * i + 1]!,
    count: numbers[NUMBERS * i + 2]!,
  }))
}

const NUMBERS = 3
