import { wholeNumber } from '../../../shared/cli/options.ts'
import { asHeadraceError } from '../../../shared/errors.ts'
import { coresFrom } from '../harness/cores.ts'
import { type DecodeCell, decodeCellText, decodeReport } from '../harness/decode-report.ts'
import { keptStates } from '../harness/kept-states.ts'
import { listed, listedNumbers } from '../harness/lists.ts'
import { peerPackage } from '../harness/peer-install.ts'
import type { PinnedChild } from '../harness/pinned-child.ts'
import { untilQuiet } from '../harness/quiet.ts'
import { COMPARED_WEIGHTS, type ComparedWeights, type OurDecode, Peer, startOurs } from '../harness/rivals.ts'
import { rotated } from '../harness/statistics.ts'
import { PRESET_NAMES, PRESETS, type PresetName } from '../models/presets.ts'
import { defineSuite } from '../suite.ts'

/** How fast one decode node generates, against llama.cpp on the same cores. */
export const decodeSuite = defineSuite({
  name: 'decode',
  describe: 'Tokens a second of greedy decoding after contexts of several lengths, against llama.cpp',
  options: {
    preset: { choices: PRESET_NAMES, default: 'smol135' as PresetName, describe: 'Shape of the model' },
    contexts: {
      type: 'array',
      coerce: listedNumbers,
      default: [1024, 8192, 16_384],
      describe: 'Tokens before the answer',
    },
    threads: { type: 'array', coerce: listedNumbers, default: [1, 2], describe: 'Threads, each on a core of its own' },
    weights: {
      type: 'array',
      coerce: listed as (values: readonly unknown[]) => ComparedWeights[],
      choices: COMPARED_WEIGHTS,
      default: ['f32', 'int8'],
      describe: 'How weights are kept',
    },
    count: { type: 'number', default: 16, describe: 'Tokens generated in each run' },
    rounds: { type: 'number', default: 3, describe: 'Runs of each, in turn' },
    patience: { type: 'number', default: 0, describe: 'Seconds to wait before each run for others to be quiet' },
    'first-core': { type: 'number', default: 0, describe: 'Where the cores that are used begin' },
    peer: { type: 'boolean', default: true, describe: 'Compare with llama.cpp; --no-peer measures only ours' },
  },
  async run(options, context) {
    const { preset, weights, patience } = options
    const { signal, note } = context
    const count = wholeNumber('count', options.count, 1, 1000)
    const rounds = wholeNumber('rounds', options.rounds, 1, 1000)
    const longest = PRESETS[preset].contextLength - count - 64
    const contexts = options.contexts.map((tokens) => wholeNumber('contexts', tokens, 2, longest)).sort((a, b) => a - b)
    const firstCore = wholeNumber('first-core', options['first-core'], 0, 1024)
    const places = options.threads.map((threads) => ({
      threads,
      cores: coresFrom(firstCore, wholeNumber('threads', threads, 1, 256)),
    }))
    const peer = options.peer ? await peerPackage(note, signal) : undefined
    const widest = places.reduce((most, place) => (place.threads > most.threads ? place : most))
    const states = peer === undefined ? [] : await keptStates({ peer, preset, contexts, ...widest }, context)
    const cells: DecodeCell[] = []
    const missing: string[] = []
    for (const { threads, cores } of places)
      for (const kind of weights) {
        const ours = await startOurs({ preset, weights: kind, threads, cores, decodes: true }, signal).catch(
          (thrown: unknown) => {
            signal.throwIfAborted()
            missing.push(`Our engine with ${kind} weights: ${asHeadraceError(thrown).message}`)
            return undefined
          },
        )
        const theirs = peer && (await Peer.start({ peer, preset, weights: kind, threads, cores }, signal))
        try {
          for (const [i, context] of contexts.entries()) {
            const cell: DecodeCell = { preset, weights: kind, threads, context, ours: [], theirs: [] }
            await measure(cell, {
              ours,
              theirs,
              count,
              rounds,
              state: states[i] ?? '',
              quiet: () => untilQuiet(patience, signal),
            })
            cells.push(cell)
            note(decodeCellText(cell))
          }
        } finally {
          await ours?.stop()
          await theirs?.stop()
        }
      }
    return decodeReport({ preset, peer: peer?.version, count, cells, missing })
  },
})

interface Sides {
  readonly ours: PinnedChild | undefined
  readonly theirs: Peer | undefined
  readonly count: number
  readonly rounds: number
  /** The peer's context, in a file. */
  readonly state: string
  readonly quiet: () => Promise<void>
}

async function measure(cell: DecodeCell, { ours, theirs, count, rounds, state, quiet }: Sides): Promise<void> {
  const { context } = cell
  for (let round = 0; round < rounds; round++) {
    const runs = [
      async () => ours && cell.ours.push(await ours.ask<OurDecode>('decode', { context, count })),
      async () => theirs && cell.theirs.push(await theirs.decode(state, context, count, { flash: true, batch: 512 })),
    ]
    for (const run of rotated(runs, round)) {
      await quiet()
      await run()
    }
  }
}
