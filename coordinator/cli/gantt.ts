import type { ChromeEvent, ChromeTrace } from '../trace/chrome.ts'

/** A run as a chart for terminals: a row for each worker's arithmetic and for what it receives. Pure. */

export interface GanttStyle {
  /** Columns of the terminal. */
  readonly width: number
  readonly colour: boolean
}

/** What stands for a kind of span, and its colour (ANSI). In the order of the legend. */
const GLYPHS: ReadonlyMap<string, { glyph: string; colour: number }> = new Map([
  ['queue', { glyph: '~', colour: 90 }],
  ['project', { glyph: '▒', colour: 34 }],
  ['attend', { glyph: '█', colour: 32 }],
  ['mix', { glyph: '░', colour: 36 }],
  ['wait', { glyph: '.', colour: 31 }],
  ['receive', { glyph: '─', colour: 33 }],
  ['decode', { glyph: '▪', colour: 35 }],
])

const LEAST_CHART = 20
/** How far beyond the first token the chart goes: a long answer must not squeeze the prefill into a corner. */
const BEYOND_FIRST_TOKEN = 1.1

interface Row {
  readonly label: string
  readonly spans: readonly ChromeEvent[]
}

export function gantt({ traceEvents }: ChromeTrace, { width, colour }: GanttStyle): string {
  const spans = traceEvents.filter(({ ph, name }) => ph === 'X' && GLYPHS.has(name))
  const last = spans.reduce((most, { ts, dur = 0 }) => Math.max(most, ts + dur), 1)
  const firstToken = traceEvents.find(({ ph, name }) => ph === 'i' && name === 'first token')?.ts ?? last
  const end = Math.max(1, Math.min(last, firstToken * BEYOND_FIRST_TOKEN))
  const rows = rowsOf(traceEvents, spans, end / width)
  const margin = rows.reduce((most, { label }) => Math.max(most, label.length), 0) + 1
  const columns = Math.max(LEAST_CHART, width - margin - 2)
  const lines = rows.map(({ label, spans }) => `${label.padEnd(margin)}│${draw(spans, end, columns, colour)}│`)
  return [...lines, ...axis(end, columns, margin), legend(rows, colour)].join('\n')
}

/**
 * The queue if it lasted long enough to be seen (`leastQueue`, microseconds); then of each worker its arithmetic, and what
 * came to it in one row for all peers.
 */
function rowsOf(events: readonly ChromeEvent[], spans: readonly ChromeEvent[], leastQueue: number): Row[] {
  const names = (kind: string): ChromeEvent[] => events.filter(({ ph, name }) => ph === 'M' && name === kind)
  const told = ({ args }: ChromeEvent): string => String(args?.['name'] ?? '')
  return names('process_name').flatMap((process): Row[] => {
    const own = spans.filter(({ pid }) => pid === process.pid)
    const received = own.filter(({ name }) => name === 'receive')
    const computed = own.filter(({ name }) => name !== 'receive')
    return [
      { label: own.some(({ name }) => name === 'queue') ? 'queue' : told(process), spans: computed },
      { label: '  receives', spans: received },
    ].filter((row) => row.spans.some(({ name, dur = 0 }) => name !== 'queue' || dur > leastQueue))
  })
}

/** One character a column: whatever took most of its time. What is shorter than a column still shows in an empty one. */
function draw(spans: readonly ChromeEvent[], end: number, columns: number, colour: boolean): string {
  const cells = Array.from({ length: columns }, () => new Map<string, number>())
  const perColumn = end / columns
  for (const { name, ts, dur = 0 } of spans) {
    const first = Math.max(0, Math.floor(ts / perColumn))
    const last = Math.min(columns - 1, Math.floor((ts + dur) / perColumn))
    for (let i = first; i <= last; i++) {
      const covered = Math.min(ts + dur, (i + 1) * perColumn) - Math.max(ts, i * perColumn)
      cells[i]!.set(name, (cells[i]!.get(name) ?? 0) + Math.max(covered, 0))
    }
  }
  return cells.map((cell) => glyphOf(most(cell), colour)).join('')
}

const most = (cell: ReadonlyMap<string, number>): string | undefined =>
  [...cell].reduce<[string, number] | undefined>((a, b) => (a === undefined || b[1] > a[1] ? b : a), undefined)?.[0]

function glyphOf(name: string | undefined, inColour: boolean): string {
  const style = name === undefined ? undefined : GLYPHS.get(name)
  if (style === undefined) return ' '
  return inColour ? `\x1b[${style.colour}m${style.glyph}\x1b[0m` : style.glyph
}

/** A line with a tick every so often, at 1, 2 or 5 of a unit, and their times below. */
function axis(end: number, columns: number, margin: number): string[] {
  const step = niceStep(end / Math.max(1, Math.floor(columns / 12)))
  const line = Array.from({ length: columns }, () => '─')
  const times = Array.from({ length: columns + 1 }, () => ' ')
  for (let at = 0; at <= end; at += step) {
    const column = Math.min(columns - 1, Math.floor((at / end) * columns))
    const text = at === 0 ? '0' : end < 1e6 ? `${plain(at / 1e3)} ms` : `${plain(at / 1e6)} s`
    if (column + text.length > columns + 1) break
    line[column] = '┴'
    for (const [i, letter] of [...text].entries()) times[column + i] = letter
  }
  return [`${' '.repeat(margin)}└${line.join('')}┘`, `${' '.repeat(margin + 1)}${times.join('').trimEnd()}`]
}

const plain = (value: number): string => String(Number(value.toPrecision(3)))

function niceStep(least: number): number {
  const unit = 10 ** Math.floor(Math.log10(least))
  return unit * ([1, 2, 5].find((factor) => factor * unit >= least) ?? 10)
}

function legend(rows: readonly Row[], colour: boolean): string {
  const shown = new Set(rows.flatMap(({ spans }) => spans.map(({ name }) => name)))
  return [...GLYPHS.keys()]
    .filter((name) => shown.has(name))
    .map((name) => `${glyphOf(name, colour)} ${name}`)
    .join('  ')
}
