import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** One prompt of a fixture, as Hugging Face transformers computed it. */
export interface ExpectedCase {
  readonly ids: number[]
  readonly last_logits: number[]
  /** Over the positions that have a next token; null for a single token. */
  readonly mean_nll: number | null
  readonly argmax_per_position: number[]
  /** Empty for a single token. */
  readonly greedy_next_8: number[]
  readonly kv: Readonly<Record<string, { positions: number; k_last_position: number[]; v_last_position: number[] }>>
}

export function expectedCases(fixtureFolder: string): ExpectedCase[] {
  return JSON.parse(readFileSync(join(fixtureFolder, 'expected.json'), 'utf8')).cases
}
