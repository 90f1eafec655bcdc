import type { LayerWeights } from '../../model/weights.ts'
import type { Floats } from '../host-tensors.ts'
import type { FormatInUse } from './linear/linear.ts'
import type { Slot, Slots } from './session-set.ts'

/** The vectors that a graph reads, where the model has them. */
const PROJECT_VECTORS = ['attention_norm', 'q_norm', 'k_norm', 'q_bias', 'k_bias', 'v_bias'] as const
const JOIN_VECTORS = ['o_bias', 'attention_out_norm', 'mlp_norm'] as const
const MIX_VECTORS = [...JOIN_VECTORS, 'gate_bias', 'up_bias', 'down_bias', 'mlp_out_norm'] as const
const VECTORS = {
  project: PROJECT_VECTORS,
  join: JOIN_VECTORS,
  mix: MIX_VECTORS,
  layer: [...PROJECT_VECTORS, ...MIX_VECTORS],
  expert: [],
} as const

/** The weights that a graph of this kind reads. */
export function layerSlots<M>(
  linear: FormatInUse<M>,
  kind: keyof typeof VECTORS,
  { vectors, attention, mlp, experts }: LayerWeights<M>,
  expert = 0,
): Slots {
  const slots: Record<string, Slot> = {}
  for (const name of VECTORS[kind]) {
    const vector = vectors[name]
    if (vector !== undefined) slots[name] = [vector, [vector.length]]
  }
  const { q, k, v, o } = attention
  const matrices = {
    project: { q, k, v },
    join: { o },
    mix: { o, ...mlp },
    layer: { q, k, v, o, ...mlp },
    expert: { ...experts?.mlps[expert] },
  }[kind]
  for (const [name, matrix] of Object.entries(matrices)) Object.assign(slots, linear.slots(`${name}_weight`, matrix))
  if (kind === 'join' && experts) {
    const { router_experts_dim: router, mlps } = experts
    slots['router_weight'] = [router, [mlps.length, router.length / mlps.length]]
  }
  return slots
}

export const headSlots = <M>(linear: FormatInUse<M>, gain: Floats, piece: M): Slots => ({
  final_norm: [gain, [gain.length]],
  ...linear.slots('head_weight', piece),
})
