import { PRESETS, type PresetName, presetText } from '../models/presets.ts'
import { allCalls, DECODE_CALLS, decodeFlops } from './flops.ts'
import { columns, mebibytes, percent, type Report, type ReportPart, spreadText } from './report.ts'
import { type ComparedWeights, type OurDecode, type PeerDecode, type Resident, WEIGHT_PAIRS } from './rivals.ts'
import { median, type Spread, speedUps, spreadOf, sum } from './statistics.ts'

/** All rounds of one kind of weights, number of threads and context. */
export interface DecodeCell {
  readonly preset: PresetName
  readonly weights: ComparedWeights
  readonly threads: number
  readonly context: number
  readonly ours: Resident<OurDecode>[]
  readonly theirs: Resident<PeerDecode>[]
}

export function decodeReport(found: {
  preset: PresetName
  peer: string | undefined
  count: number
  cells: readonly DecodeCell[]
  missing: readonly string[]
}): Report {
  const { preset, peer, count, cells, missing } = found
  const against = peer === undefined ? 'Nothing to compare with was asked for.' : `The peer: ${peer}, flash on.`
  const parts: ReportPart[] = [
    { line: presetText(preset) },
    { line: `${against} ${count} tokens a run; our context is random keys and values, the peer's a computed one.` },
    speedTable(cells),
    callsTable(cells.filter(({ ours }) => ours.length > 0)),
    ...missing.map((what) => ({ line: `NOT MEASURED. ${what}` })),
  ]
  return { parts, data: { ...found, summaries: cells.map(summary) } }
}

export function decodeCellText(cell: DecodeCell): string {
  const { ours, theirs, ratio } = summary(cell)
  const about = `${cell.weights}, ${cell.threads} threads, after ${cell.context} tokens`
  return `${about}: ours ${text(ours, 1)} tokens/s, theirs ${text(theirs, 1)}, ratio ${text(ratio)}`
}

/** Of a run the median of its tokens counts: one that was interrupted says nothing of the others. */
function summary({ ours, theirs }: DecodeCell) {
  const ms = (runs: readonly { ms: readonly number[] }[]): number[] => runs.map((run) => median(run.ms))
  const speeds = (runs: readonly { ms: readonly number[] }[]): Spread | undefined =>
    runs.length === 0 ? undefined : spreadOf(ms(runs).map((each) => 1000 / each))
  const cpuMs = (runs: readonly { cpuMs: number }[]): number[] => runs.map((run) => run.cpuMs)
  const both = ours.length > 0 && theirs.length > 0
  return {
    ours: speeds(ours),
    theirs: speeds(theirs),
    ratio: both ? spreadOf(speedUps(ms(theirs), ms(ours))) : undefined,
    cpuRatio: both ? median(speedUps(cpuMs(theirs), cpuMs(ours))) : undefined,
  }
}

const text = (spread: Spread | undefined, digits = 2): string =>
  spread === undefined ? '-' : spreadText(spread, digits)
const memory = (run: { residentBytes: number } | undefined): string => (run ? mebibytes(run.residentBytes) : '-')

const speedTable = (cells: readonly DecodeCell[]): ReportPart => ({
  title:
    'Greedy decoding, tokens/s: median (least-most) of the rounds. "ratio": ours over the peer, round by round; "by CPU time": ' +
    'the same where others used the cores too',
  head: columns('weights, threads, context, ours, peer, ratio, by CPU time, MiB ours, MiB peer'),
  rows: cells.map((cell) => {
    const { ours, theirs, ratio, cpuRatio } = summary(cell)
    return [
      WEIGHT_PAIRS[cell.weights].text,
      String(cell.threads),
      String(cell.context),
      text(ours, 1),
      text(theirs, 1),
      text(ratio),
      cpuRatio?.toFixed(2) ?? '-',
      memory(cell.ours.at(-1)),
      memory(cell.theirs.at(-1)),
    ]
  }),
})

const callsTable = (cells: readonly DecodeCell[]): ReportPart => ({
  title: 'Where our time goes: share of each kind of call, and GFLOP/s of all',
  head: columns('weights, threads, context, layers, logits, outside calls, GFLOP/s'),
  rows: cells.map((cell) => {
    const share = (of: (run: OurDecode) => number): string =>
      percent(median(cell.ours.map((run) => (of(run) * 1000) / sum(run.ms))))
    const tokenMs = median(cell.ours.map((run) => median(run.ms)))
    return [
      cell.weights,
      String(cell.threads),
      String(cell.context),
      ...DECODE_CALLS.map((call) => share((run) => run.seconds[call])),
      share((run) => sum(run.ms) / 1000 - allCalls(run.seconds)),
      (allCalls(decodeFlops(PRESETS[cell.preset], cell.context)) / tokenMs / 1e6).toFixed(1),
    ]
  }),
})
