import { table } from '../../../coordinator/cli/table.ts'
import type { Spread } from './statistics.ts'

/** What a suite found: for people as tables and lines, for programs as `data`. */
export interface Report {
  readonly parts: readonly ReportPart[]
  readonly data: object
}

export type ReportPart =
  | { readonly line: string }
  | { readonly title: string; readonly head: readonly string[]; readonly rows: readonly (readonly string[])[] }

export const reportText = ({ parts }: Report): string =>
  parts.map((part) => ('line' in part ? part.line : `${part.title}\n${table(part.head, part.rows)}`)).join('\n\n')

/** `6.86 (6.70-7.10)`: median, least and most. */
export function spreadText({ median, min, max }: Spread, digits = 2): string {
  const text = (value: number): string => value.toFixed(digits)
  return `${text(median)} (${text(min)}-${text(max)})`
}

/** A table's head, written as a line. */
export const columns = (names: string): string[] => names.split(', ')

export const percent = (share: number): string => `${(share * 100).toFixed(1)} %`

export const mebibytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(0)
