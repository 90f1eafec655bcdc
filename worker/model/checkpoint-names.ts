import type { ModelShape, Norms } from '../../shared/model-shape.ts'

/** What stands before and after attention and MLP, and over queries and keys. */
export type Norm = 'attention' | 'attention_out' | 'mlp' | 'mlp_out' | 'q' | 'k'
export type ExpertMatrix = 'gate' | 'up' | 'down'
export type Bias = 'q' | 'k' | 'v' | 'o' | ExpertMatrix

interface LayerNames {
  /** One name where the three are one tensor, else three. The same with the two of `gateUp`. */
  readonly qkv: readonly string[]
  readonly o: string
  readonly gateUp: readonly string[]
  readonly down: string
  readonly router: string
  expert(index: number, matrix: ExpertMatrix): string
  readonly norms: Readonly<Partial<Record<Norm, { readonly name: string; readonly width: number }>>>
  bias(of: Bias): string
}

/** The same names mean other places in models that normalise elsewhere. */
const LAYER_NORMS: Readonly<Record<Norms, Readonly<Partial<Record<Norm, string>>>>> = {
  pre: { attention: 'input_layernorm', mlp: 'post_attention_layernorm' },
  post: { attention_out: 'post_attention_layernorm', mlp_out: 'post_feedforward_layernorm' },
  sandwich: {
    attention: 'input_layernorm',
    attention_out: 'post_attention_layernorm',
    mlp: 'pre_feedforward_layernorm',
    mlp_out: 'post_feedforward_layernorm',
  },
}

/** Mixtral's names of an expert's matrices. */
const NUMBERED: Readonly<Record<ExpertMatrix, string>> = { gate: 'w1', up: 'w3', down: 'w2' }

/** Where a Hugging Face checkpoint keeps the tensors of one layer, without `.weight`. */
export function namesOf(shape: ModelShape, layer: number): LayerNames {
  const at = (name: string): string => `model.layers.${layer}.${name}`
  const attention = (name: string): string => at(`self_attn.${name}`)
  const mlp = (name: string): string => at(`mlp.${name}`)
  const fused = shape.architecture === 'phi3'
  const mixtral = shape.architecture === 'mixtral'
  return {
    qkv: (fused ? ['qkv_proj'] : ['q_proj', 'k_proj', 'v_proj']).map(attention),
    o: attention('o_proj'),
    gateUp: (fused ? ['gate_up_proj'] : ['gate_proj', 'up_proj']).map(mlp),
    down: mlp('down_proj'),
    router: mixtral ? at('block_sparse_moe.gate') : mlp('gate'),
    expert: (index, matrix) =>
      mixtral ? at(`block_sparse_moe.experts.${index}.${NUMBERED[matrix]}`) : mlp(`experts.${index}.${matrix}_proj`),
    norms: normsOf(shape, at),
    bias: (of) => `${of === 'gate' || of === 'up' || of === 'down' ? mlp(`${of}_proj`) : attention(`${of}_proj`)}.bias`,
  }
}

function normsOf(shape: ModelShape, at: (name: string) => string): LayerNames['norms'] {
  const { hidden, heads, kvHeads, headDim, norms, qkNorm } = shape
  const result: Partial<Record<Norm, { name: string; width: number }>> = {}
  for (const [norm, name] of Object.entries(LAYER_NORMS[norms]))
    result[norm as Norm] = { name: at(name), width: hidden }
  if (qkNorm === 'none') return result
  const width = (count: number): number => (qkNorm === 'head' ? headDim : count * headDim)
  result.q = { name: at('self_attn.q_norm'), width: width(heads) }
  result.k = { name: at('self_attn.k_norm'), width: width(kvHeads) }
  return result
}

/** The biases that a layer has, with their widths. */
export function biasesOf(shape: ModelShape, layer: number): Readonly<Partial<Record<Bias, number>>> {
  const { hidden, heads, kvHeads, headDim, ffn, biases, layerShapes } = shape
  const [q, kv] = [heads * headDim, kvHeads * headDim]
  return {
    ...(biases.qkv && { q, k: kv, v: kv }),
    ...(biases.o && { o: hidden }),
    ...(biases.mlp && !layerShapes[layer]?.experts && { gate: ffn, up: ffn, down: hidden }),
  }
}
