/** Text for terminals. Pure. */

/** Rows as columns of equal width; columns whose cells are numbers with units line up on the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => (row[i] ?? '').length)))
  const right = head.map((_, i) => rows.every((row) => /^[\d.]/.test(row[i] ?? '0')))
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => (right[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd()
  return [line(head), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(line)].join('\n')
}

export function seconds(value: number): string {
  return value < 0.9995 ? `${(value * 1000).toFixed(0)} ms` : `${value.toFixed(2)} s`
}

export function bytes(value: number): string {
  if (value < 1e3) return `${value} B`
  if (value < 1e6) return `${(value / 1e3).toFixed(1)} kB`
  return value < 1e9 ? `${(value / 1e6).toFixed(1)} MB` : `${(value / 1e9).toFixed(2)} GB`
}

/** `[======>     ] 4200 of 12037 tokens, 2.1 s` */
export function progressBar(processed: number, total: number, elapsedSeconds: number, width = 30): string {
  const done = Math.round((Math.min(processed, total) / Math.max(total, 1)) * width)
  const bar = `${'='.repeat(Math.max(0, done - 1))}${done > 0 ? '>' : ''}`.padEnd(width)
  return `[${bar}] ${processed} of ${total} tokens, ${seconds(elapsedSeconds)}`
}

/** `0-7311` or, of a mirrored pair, `0-3009+9027-12037`. */
export const spansText = (spans: readonly (readonly [number, number])[]): string =>
  spans.map(([start, end]) => `${start}-${end}`).join('+')
