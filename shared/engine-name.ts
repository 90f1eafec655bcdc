/** What can do the arithmetic: `onnx` is ONNX Runtime; `reference` is plain loops, slow and obvious. */
export const ENGINES = ['onnx', 'reference'] as const
export type EngineName = (typeof ENGINES)[number]
