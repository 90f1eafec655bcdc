import type { ModelShape } from '../../../shared/model-shape.ts'

/** A tensor of a Llama model, under the names of both kinds of file. */
export interface TensorSpec {
  /** Place in the model: two tensors with equal dimensions get different values. */
  readonly index: number
  readonly huggingFace: string
  readonly gguf: string
  /** 1 for a vector. */
  readonly rows: number
  readonly columns: number
  readonly kind: 'matrix' | 'norm'
  /** Set for q and k: GGUF holds the rows of a head as neighbouring pairs, Hugging Face as two halves. */
  readonly rotatedHeadDim?: number
}

/** All tensors, in the order in which they are written. */
export function tensorSpecs(shape: ModelShape): TensorSpec[] {
  const { hidden, ffn, vocab } = shape
  const [q, kv] = [shape.heads * shape.headDim, shape.kvHeads * shape.headDim]
  const rotated = { rotatedHeadDim: shape.headDim }
  const layer = (i: number): Omit<TensorSpec, 'index'>[] => {
    const [from, to] = [`model.layers.${i}.`, `blk.${i}.`]
    return [
      norm(`${from}input_layernorm`, `${to}attn_norm`, hidden),
      { ...matrix(`${from}self_attn.q_proj`, `${to}attn_q`, q, hidden), ...rotated },
      { ...matrix(`${from}self_attn.k_proj`, `${to}attn_k`, kv, hidden), ...rotated },
      matrix(`${from}self_attn.v_proj`, `${to}attn_v`, kv, hidden),
      matrix(`${from}self_attn.o_proj`, `${to}attn_output`, hidden, q),
      norm(`${from}post_attention_layernorm`, `${to}ffn_norm`, hidden),
      matrix(`${from}mlp.gate_proj`, `${to}ffn_gate`, ffn, hidden),
      matrix(`${from}mlp.up_proj`, `${to}ffn_up`, ffn, hidden),
      matrix(`${from}mlp.down_proj`, `${to}ffn_down`, hidden, ffn),
    ]
  }
  const all = [
    matrix('model.embed_tokens', 'token_embd', vocab, hidden),
    ...Array.from({ length: shape.layers }, (_, i) => layer(i)).flat(),
    norm('model.norm', 'output_norm', hidden),
    ...(shape.tiedHead ? [] : [matrix('lm_head', 'output', vocab, hidden)]),
  ]
  return all.map((spec, index) => ({ index, ...spec }))
}

/** Which row of the Hugging Face tensor is row `row` of the GGUF tensor. */
export function ggufRow(row: number, headDim: number): number {
  const inHead = row % headDim
  return row - inHead + (inHead >> 1) + (inHead % 2 === 0 ? 0 : headDim / 2)
}

const matrix = (huggingFace: string, gguf: string, rows: number, columns: number) =>
  ({ huggingFace: `${huggingFace}.weight`, gguf: `${gguf}.weight`, rows, columns, kind: 'matrix' }) as const

const norm = (huggingFace: string, gguf: string, columns: number) =>
  ({ huggingFace: `${huggingFace}.weight`, gguf: `${gguf}.weight`, rows: 1, columns, kind: 'norm' }) as const
