import { kvBytesPerTokenLayer, type ModelShape } from '../../shared/model-shape.ts'
import { WIRES, type Wire } from '../../shared/plan.ts'

/** Bytes of one token's K and V in one layer on a link. `int8` has a float32 scale for each head of K and of V. */
export function wireBytesPerTokenLayer(shape: ModelShape, wire: Wire): number {
  const exact = kvBytesPerTokenLayer(shape)
  switch (wire) {
    case 'f32':
      return exact
    case 'f16':
      return exact / 2
    case 'int8':
      return exact / 4 + 2 * shape.kvHeads * 4
  }
}

/** From the widest to `narrowest`. */
export const wiresDownTo = (narrowest: Wire): readonly Wire[] => WIRES.slice(0, WIRES.indexOf(narrowest) + 1)
