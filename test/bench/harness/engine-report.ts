import { PRESETS, type PresetName, presetText } from '../models/presets.ts'
import { type Ceiling, productText } from './ceiling.ts'
import { allCalls, type Call, PREFILL_CALLS, prefillFlops } from './flops.ts'
import type { Quality } from './quality.ts'
import { qualityTable } from './quality-report.ts'
import { columns, mebibytes, percent, type Report, type ReportPart, spreadText } from './report.ts'
import {
  type ComparedWeights,
  type OurPrefill,
  type PeerPrefill,
  type PeerSettings,
  type Resident,
  settingsText,
  WEIGHT_PAIRS,
} from './rivals.ts'
import { median, type Spread, speedUps, spreadOf } from './statistics.ts'

/** All rounds of one kind of weights, number of threads and length. A side that was not measured has no runs. */
export interface Cell {
  readonly preset: PresetName
  readonly weights: ComparedWeights
  readonly threads: number
  readonly tokens: number
  /** The best of `probes`, which at a long prompt are those of a shorter one. */
  readonly settings: PeerSettings
  readonly probes: readonly Probe[]
  readonly ours: Resident<OurPrefill>[]
  readonly theirs: Resident<PeerPrefill>[]
  /** GFLOP/s of the best matrix product, around each of ours. */
  readonly limits: number[]
}

/** One run of the peer to find its best settings. */
export interface Probe {
  readonly tokens: number
  readonly settings: PeerSettings
  readonly ms: number
}

interface EngineFindings {
  readonly preset: PresetName
  readonly peer: string | undefined
  readonly ceilings: readonly Ceiling[]
  readonly cells: readonly Cell[]
  readonly quality: readonly Quality[]
  readonly missing: readonly string[]
}

export function engineReport(found: EngineFindings): Report {
  const { preset, peer, ceilings, cells, quality, missing } = found
  const parts: ReportPart[] = [
    { line: presetText(preset) },
    { line: peer === undefined ? 'Nothing to compare with was asked for.' : `The peer: ${peer}, prebuilt, no GPU.` },
    speedTable(cells),
    callsTable(cells.filter(({ ours }) => ours.length > 0)),
    ceilingTable(ceilings),
    ...(quality.length > 0 ? [qualityTable(quality)] : []),
    ...missing.map((what) => ({ line: `NOT MEASURED. ${what}` })),
  ]
  return { parts, data: { ...found, summaries: cells.map(summary) } }
}

export function cellText(cell: Cell): string {
  const { ours, theirs, ratio } = summary(cell)
  const about = `${cell.weights}, ${cell.threads} threads, ${cell.tokens} tokens`
  return `${about}: ours ${speedText(ours)} tokens/s, theirs ${speedText(theirs)}, ratio ${ratioText(ratio)}`
}

/** Tokens a second, and ours over theirs by round. */
function summary(cell: Cell) {
  const speeds = (runs: readonly { ms: number }[]): Spread | undefined =>
    runs.length === 0 ? undefined : spreadOf(runs.map(({ ms }) => (cell.tokens / ms) * 1000))
  const both = cell.ours.length > 0 && cell.theirs.length > 0
  const ms = (runs: readonly { ms: number }[]): number[] => runs.map((run) => run.ms)
  const cpuMs = (runs: readonly { cpuMs: number }[]): number[] => runs.map((run) => run.cpuMs)
  return {
    ours: speeds(cell.ours),
    theirs: speeds(cell.theirs),
    ratio: both ? spreadOf(speedUps(ms(cell.theirs), ms(cell.ours))) : undefined,
    cpuRatio: both ? median(speedUps(cpuMs(cell.theirs), cpuMs(cell.ours))) : Number.NaN,
    ourGflops: gflops(cell, cell.ours),
    theirGflops: gflops(cell, cell.theirs),
    share:
      cell.limits.length === 0
        ? undefined
        : spreadOf(cell.limits.map((limit, i) => gflops(cell, [cell.ours[i]!]) / limit)),
  }
}

/** By the work that the prompt needs, which is the same for both: the last layer of the last token only. */
function gflops({ preset, tokens }: Cell, runs: readonly { ms: number }[]): number {
  return allCalls(prefillFlops(PRESETS[preset], tokens, 1)) / median(runs.map(({ ms }) => ms)) / 1e6
}

const NOTHING = '-'
const number = (value: number): string => (Number.isNaN(value) ? NOTHING : value.toFixed(0))
const speedText = (speed: Spread | undefined): string => (speed === undefined ? NOTHING : spreadText(speed, 0))
const ratioText = (ratio: Spread | undefined): string => (ratio === undefined ? NOTHING : spreadText(ratio))

function speedTable(cells: readonly Cell[]): ReportPart {
  return {
    title:
      'Prompt to the logits of its last token, tokens/s: median (least-most). "ratio": ours over the peer, round by round; ' +
      '"by CPU time": the same where others used the cores too; "share": of what the best product below reached right before and after it; "cores": used on average',
    head: columns(
      "weights, threads, tokens, ours, peer, ratio, by CPU time, GFLOP/s ours, share, GFLOP/s peer, cores ours, cores peer, MiB ours (peak), MiB peer, same next token, peer's best setting",
    ),
    rows: cells.map((cell) => {
      const { ours, theirs, ratio, cpuRatio, ourGflops, theirGflops, share } = summary(cell)
      const [our, their] = [cell.ours.at(-1), cell.theirs.at(-1)]
      return [
        WEIGHT_PAIRS[cell.weights].text,
        String(cell.threads),
        String(cell.tokens),
        speedText(ours),
        speedText(theirs),
        ratioText(ratio),
        Number.isNaN(cpuRatio) ? NOTHING : cpuRatio.toFixed(2),
        number(ourGflops),
        share === undefined ? NOTHING : `${percent(share.median)} (${percent(share.min)}-${percent(share.max)})`,
        number(theirGflops),
        coresUsed(cell.ours),
        coresUsed(cell.theirs),
        our === undefined ? NOTHING : `${mebibytes(our.residentBytes)} (${mebibytes(our.peakBytes)})`,
        their === undefined ? NOTHING : mebibytes(their.residentBytes),
        our === undefined || their === undefined ? NOTHING : our.token === their.token ? 'yes' : 'no',
        their === undefined ? NOTHING : settingsText(cell.settings),
      ]
    }),
  }
}

/** Shows that as many threads computed as were asked for. */
const coresUsed = (runs: readonly { ms: number; cpuMs: number }[]): string =>
  runs.length === 0 ? NOTHING : median(runs.map(({ ms, cpuMs }) => cpuMs / ms)).toFixed(2)

const callsTable = (cells: readonly Cell[]): ReportPart => ({
  title: 'Where our time goes: GFLOP/s of each kind of call, by the causal work alone, and its share of the time',
  head: columns('weights, threads, tokens, project, attend, mix, logits, all, outside calls'),
  rows: cells.map((cell) => {
    const { lastRows } = cell.ours[0]!
    const work = prefillFlops(PRESETS[cell.preset], cell.tokens, lastRows)
    const total = median(cell.ours.map(({ ms }) => ms)) / 1000
    const seconds = (call: Call): number => median(cell.ours.map((run) => run.seconds[call]))
    const outside = median(cell.ours.map((run) => 1 - (allCalls(run.seconds) * 1000) / run.ms))
    return [
      cell.weights,
      String(cell.threads),
      String(cell.tokens),
      ...PREFILL_CALLS.map((call) => `${number(work[call] / seconds(call) / 1e9)} (${percent(seconds(call) / total)})`),
      number(allCalls(work) / total / 1e9),
      percent(outside),
    ]
  }),
})

const ceilingTable = (ceilings: readonly Ceiling[]): ReportPart => ({
  title: 'The ceiling: GFLOP/s of one ONNX Runtime matrix product (int8: u8 by s8) of m x k by k x n',
  head: ['kind', 'threads', ...(ceilings[0]?.products.map(({ product }) => productText(product)) ?? []), 'best'],
  rows: ceilings.map(({ kind, threads, products, gflops }) => [
    kind,
    String(threads),
    ...products.map((one) => number(one.gflops)),
    number(gflops),
  ]),
})
