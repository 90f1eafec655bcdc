import { wholeNumber } from '../../../shared/cli/options.ts'
import { asHeadraceError } from '../../../shared/errors.ts'
import { bundledModel, fixture } from '../../support/paths.ts'
import { bestProduct, type Ceiling, CeilingProbe, type Product } from '../harness/ceiling.ts'
import { coresFrom } from '../harness/cores.ts'
import { type Cell, cellText, engineReport, type Probe } from '../harness/engine-report.ts'
import { listed, listedNumbers } from '../harness/lists.ts'
import { type PeerPackage, peerPackage } from '../harness/peer-install.ts'
import type { PinnedChild } from '../harness/pinned-child.ts'
import { compareQuality, type Quality } from '../harness/quality.ts'
import { untilQuiet } from '../harness/quiet.ts'
import {
  COMPARED_WEIGHTS,
  type ComparedWeights,
  type OurPrefill,
  Peer,
  type PeerSettings,
  type Resident,
  settingsText,
  startOurs,
  WEIGHT_PAIRS,
} from '../harness/rivals.ts'
import { rotated } from '../harness/statistics.ts'
import { PRESET_NAMES, PRESETS, type PresetName } from '../models/presets.ts'
import { promptIds } from '../models/prompt-ids.ts'
import { defineSuite, type SuiteContext } from '../suite.ts'

/** How fast one worker's engine computes a prompt, against llama.cpp on the same cores and the machine's own limit. */
export const engineSuite = defineSuite({
  name: 'engine',
  describe: 'Prefill speed of the engine alone, against llama.cpp and the matrix product of the machine',
  options: {
    preset: { choices: PRESET_NAMES, default: 'smol135' as PresetName, describe: 'Shape of the model' },
    tokens: { type: 'array', coerce: listedNumbers, default: [512, 2048], describe: 'Lengths of the prompt' },
    threads: { type: 'array', coerce: listedNumbers, default: [1], describe: 'Threads, each on a core of its own' },
    weights: {
      type: 'array',
      coerce: listed as (values: readonly unknown[]) => ComparedWeights[],
      choices: COMPARED_WEIGHTS,
      default: ['f32', 'int8'],
      describe: 'How weights are kept',
    },
    rounds: { type: 'number', default: 3, describe: 'Runs of each, in turn' },
    patience: { type: 'number', default: 0, describe: 'Seconds to wait before each run for others to be quiet' },
    'first-core': { type: 'number', default: 0, describe: 'Where the cores that are used begin' },
    prompts: { type: 'string', default: fixture('prompts/prompts.jsonl'), describe: 'For the quality of int8' },
    peer: { type: 'boolean', default: true, describe: 'Compare with llama.cpp; --no-peer measures only ours' },
  },
  async run(options, context) {
    const { preset, weights, prompts, patience, 'first-core': first } = options
    const rounds = wholeNumber('rounds', options.rounds, 1, 1000)
    const lengths = options.tokens.map((tokens) => wholeNumber('tokens', tokens, 2, PRESETS[preset].contextLength - 64))
    const peer = options.peer ? await peerPackage(context.note, context.signal) : undefined
    const found: Found = { ceilings: [], cells: [], quality: [], missing: [] }
    for (const threads of options.threads.map((count) => wholeNumber('threads', count, 1, 256))) {
      const cores = coresFrom(wholeNumber('first-core', first, 0, 1024), threads)
      for (const kind of weights) {
        const probe = await CeilingProbe.start(
          { shape: PRESETS[preset], kind: WEIGHT_PAIRS[kind].ceiling, threads, cores },
          context.signal,
        )
        try {
          const ceiling = await probe.all()
          context.note(`${ceiling.kind} on ${threads}: the matrix product reaches ${ceiling.gflops.toFixed(0)} GFLOP/s`)
          found.ceilings.push(ceiling)
          const limit = { probe, product: bestProduct(ceiling) }
          await compare(
            { preset, weights: kind, threads, cores, lengths, rounds, patience, peer, limit },
            found,
            context,
          )
        } finally {
          await probe.stop()
        }
      }
    }
    for (const kind of weights) if (kind !== 'f32') await judge(kind, prompts, found, context)
    return engineReport({ preset, peer: peer?.version, ...found })
  },
})

interface Found {
  readonly ceilings: Ceiling[]
  readonly cells: Cell[]
  readonly quality: Quality[]
  /** What could not be measured, and why. */
  readonly missing: string[]
}

interface Comparison {
  readonly preset: PresetName
  readonly weights: ComparedWeights
  readonly threads: number
  readonly cores: string
  readonly lengths: readonly number[]
  readonly rounds: number
  readonly patience: number
  readonly peer: PeerPackage | undefined
  readonly limit: Limit
}

/** What the machine itself gives. */
interface Limit {
  readonly probe: CeilingProbe
  readonly product: Product
}

async function compare(of: Comparison, found: Found, { signal, note }: SuiteContext): Promise<void> {
  note(`${of.weights}: writing the models, unless an earlier run has left them`)
  const ours = await startOurs(of, signal).catch((thrown: unknown) => {
    signal.throwIfAborted()
    found.missing.push(`Our engine with ${of.weights} weights: ${asHeadraceError(thrown).message}`)
    note(found.missing.at(-1)!)
    return undefined
  })
  let peer: Peer | undefined
  try {
    if (of.peer !== undefined) peer = await Peer.start({ ...of, peer: of.peer }, signal)
    let probes: readonly Probe[] = []
    for (const tokens of of.lengths) {
      const ids = promptIds(PRESETS[of.preset].vocab, tokens)
      if (tokens === of.lengths[0]) await ours?.ask('prefill', { tokens: ids }) // pools are filled, graphs specialised
      if (peer !== undefined && (tokens <= LONGEST_PROBE || probes.length === 0))
        probes = await probesOf(peer, ids.slice(0, LONGEST_PROBE), note)
      const settings = probes.length === 0 ? DEFAULT_SETTINGS : bestOf(probes)
      const { preset, weights, threads } = of
      const cell: Cell = { preset, weights, threads, tokens, settings, probes, ours: [], theirs: [], limits: [] }
      for (let round = 0; round < of.rounds; round++)
        await oneRound(cell, ids, { ours, peer, limit: of.limit, round, quiet: () => untilQuiet(of.patience, signal) })
      found.cells.push(cell)
      note(cellText(cell))
    }
  } finally {
    await ours?.stop()
    await peer?.stop()
  }
}

async function oneRound(
  cell: Cell,
  tokens: readonly number[],
  of: {
    ours: PinnedChild | undefined
    peer: Peer | undefined
    limit: Limit
    round: number
    quiet: () => Promise<void>
  },
): Promise<void> {
  const { ours, peer, limit, round, quiet } = of
  const runs = [
    async () => {
      if (ours === undefined) return
      const before = await limit.probe.gflops(limit.product)
      cell.ours.push(await ours.ask<Resident<OurPrefill>>('prefill', { tokens }))
      cell.limits.push((before + (await limit.probe.gflops(limit.product))) / 2)
    },
    async () => peer && cell.theirs.push(await peer.prefill(tokens, cell.settings)),
  ]
  for (const run of rotated(runs, round)) {
    await quiet()
    await run()
  }
}

/** Prompts longer than this are computed with the settings found at the longest one below. */
const LONGEST_PROBE = 2048
/** The package's default, and llama.cpp's own. */
const BATCHES = [512, 2048]
const DEFAULT_SETTINGS: PeerSettings = { flash: true, batch: 512 }

/** One run of each setting that makes a difference at this length, after one that is not counted. */
async function probesOf(peer: Peer, tokens: readonly number[], note: (text: string) => void): Promise<Probe[]> {
  const batches = BATCHES.filter((batch) => batch <= Math.max(tokens.length, BATCHES[0]!))
  const probes: Probe[] = []
  await peer.prefill(tokens.slice(0, WARM_UP_TOKENS), DEFAULT_SETTINGS)
  for (const batch of batches)
    for (const flash of [true, false]) {
      const { ms } = await peer.prefill(tokens, { flash, batch })
      probes.push({ tokens: tokens.length, settings: { flash, batch }, ms })
      note(`probing the peer, ${tokens.length} tokens, ${settingsText({ flash, batch })}: ${(ms / 1000).toFixed(2)} s`)
    }
  return probes
}

const bestOf = (probes: readonly Probe[]): PeerSettings =>
  probes.reduce((best, probe) => (probe.ms < best.ms ? probe : best)).settings

const WARM_UP_TOKENS = 64

async function judge(
  kind: ComparedWeights,
  prompts: string,
  found: Found,
  { signal, note }: SuiteContext,
): Promise<void> {
  try {
    found.quality.push(...(await compareQuality({ folder: bundledModel, prompts, kinds: [kind] }, signal)))
  } catch (thrown) {
    signal.throwIfAborted()
    found.missing.push(`The quality of ${WEIGHT_PAIRS[kind].text.split(' ')[0]}: ${asHeadraceError(thrown).message}`)
    note(found.missing.at(-1)!)
  }
}
