/** What can do the arithmetic: `onnx` is ONNX Runtime; `tfjs` is TensorFlow.js; `reference` is plain loops. */
export const ENGINES = ['onnx', 'tfjs', 'reference'] as const
export type EngineName = (typeof ENGINES)[number]

/**
 * How an engine keeps the weights of its linear layers. `bf16` holds half of float32 and widens a layer before it is used,
 * which changes no number of a bfloat16 checkpoint. `int8` computes with 8-bit weights (one scale per output) and 8-bit
 * activations (one scale per token): faster, and a little off. `int4` keeps 4-bit weights (one scale to 32 inputs of an
 * output) and an 8-bit embedding and head: least memory, as fast as `int8` and further off.
 */
export const WEIGHTS = ['f32', 'bf16', 'int8', 'int4'] as const
export type Weights = (typeof WEIGHTS)[number]

/** Where the ONNX engine computes. `auto` is a GPU where WebGPU finds one. */
export const DEVICES = ['cpu', 'webgpu', 'auto'] as const
export type Device = (typeof DEVICES)[number]
