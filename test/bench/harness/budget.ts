import type { PrefillInfo } from '../../../coordinator/cli/client.ts'
import type { ChromeTrace } from '../../../coordinator/trace/chrome.ts'
import type { Weights } from '../../../shared/engine-name.ts'
import { kvBytesPerTokenLayer, type ModelShape, parameterCount } from '../../../shared/model-shape.ts'

/** What a process of a cluster should need, to hold against what it takes. All in bytes. */

/** Layers of others' KV that a worker holds at most: one it reads, and those it has granted. */
export const CREDIT_LAYERS = 3

/**
 * The weights as they are kept. A worker that only prefills needs no head. A decode node has one, beside the embedding rows
 * as they were in the file (two bytes), and with int8 it has all but those rows packed for single tokens too.
 */
export function storedWeightBytes(shape: ModelShape, weights: Weights, decodes = false): number {
  const table = shape.vocab * shape.hidden
  const layers = parameterCount(shape) - (shape.tiedHead ? table : 2 * table)
  switch (weights) {
    case 'f32':
      return 4 * (layers + table) + (decodes ? 2 * table : 0)
    case 'bf16':
      return 2 * (layers + table) + (decodes && !shape.tiedHead ? 2 * table : 0)
    case 'int8':
      return layers + 2 * table + (decodes ? layers + table : 0)
    case 'int4':
      return NIBBLE_BYTES * layers + table + (decodes ? BLOCKED_BYTE * table : 0)
  }
}

/** Of one weight: a byte and its part of a float32 scale for 64; half a byte and its part of a half for 32. */
const BLOCKED_BYTE = 1 + 4 / 64
const NIBBLE_BYTES = 1 / 2 + 2 / 32

/** KV that each worker of a run, and the decode node, has to hold at some moment, as float32. */
export function heldKvBytes(
  shape: ModelShape,
  promptTokens: number,
  prefill: PrefillInfo,
): ReadonlyMap<string, number> {
  const layer = kvBytesPerTokenLayer(shape)
  const all = prefill.workers.reduce((sum, { tokens }) => sum + tokens, 0)
  const held = prefill.workers.map(({ id, tokens, spans }): [string, number] => {
    const others = prefill.strategy === 'ring' ? all - tokens : (spans[0]?.[0] ?? 0)
    return [id, (tokens + CREDIT_LAYERS * others) * layer]
  })
  return new Map([...held, [prefill.decode, promptTokens * shape.layers * layer]])
}

/**
 * The most layers of others' KV that a worker had received, even in part, and not yet finished, by worker. A layer is
 * finished when its last chunk is mixed.
 */
export function runAhead({ traceEvents }: ChromeTrace): ReadonlyMap<string, number> {
  const names = new Map(
    traceEvents.flatMap(({ name, pid, args }) =>
      name === 'process_name' ? [[pid, String(args?.['name'])] as const] : [],
    ),
  )
  const most = new Map<string, number>()
  for (const [pid, name] of names) {
    const own = traceEvents.filter((event) => event.pid === pid && event.ph === 'X')
    const layerOf = ({ args }: (typeof own)[number]): number => Number(args?.['layer'])
    const finishedAt: number[] = []
    for (const event of own)
      if (event.name === 'mix')
        finishedAt[layerOf(event)] = Math.max(finishedAt[layerOf(event)] ?? 0, event.ts + (event.dur ?? 0))
    for (const event of own) {
      if (event.name !== 'receive') continue
      const finished = finishedAt.filter((end) => end <= event.ts).length
      most.set(name, Math.max(most.get(name) ?? 0, layerOf(event) - finished + 1))
    }
  }
  return most
}
