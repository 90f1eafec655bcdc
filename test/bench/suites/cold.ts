import { availableParallelism } from 'node:os'
import { startLocalCluster } from '../../../coordinator/cli/local-cluster.ts'
import { wholeNumber } from '../../../shared/cli/options.ts'
import { asHeadraceError } from '../../../shared/errors.ts'
import { ask } from '../harness/ask.ts'
import { type PeerPackage, peerPackage } from '../harness/peer-install.ts'
import { coresOf } from '../harness/proc.ts'
import { columns, type Report, spreadText } from '../harness/report.ts'
import { COMPARED_WEIGHTS, type ComparedWeights, Peer, WEIGHT_PAIRS } from '../harness/rivals.ts'
import { rotated, spreadOf } from '../harness/statistics.ts'
import { presetFolder, presetGguf } from '../models/cache.ts'
import { PRESET_NAMES, PRESETS, type PresetName, presetText } from '../models/presets.ts'
import { promptIds } from '../models/prompt-ids.ts'
import { defineSuite } from '../suite.ts'

/** How long it takes from nothing running to the first token of an answer. */
export const coldSuite = defineSuite({
  name: 'cold',
  describe: 'From the start of the processes to the first token of a short prompt, against llama.cpp',
  options: {
    preset: { choices: PRESET_NAMES, default: 'smol135' as PresetName, describe: 'Shape of the model' },
    weights: { choices: COMPARED_WEIGHTS, default: 'f32' as ComparedWeights, describe: 'How weights are kept' },
    workers: { type: 'number', default: 1, describe: 'Prefill workers' },
    tokens: { type: 'number', default: 64, describe: 'Length of the prompt' },
    rounds: { type: 'number', default: 3, describe: 'Starts of each, in turn' },
    peer: { type: 'boolean', default: true, describe: 'Compare with llama.cpp; --no-peer measures only ours' },
  },
  async run(options, { signal, note }) {
    const { preset, weights } = options
    const workers = wholeNumber('workers', options.workers, 1, 64)
    const tokens = wholeNumber('tokens', options.tokens, 2, 100_000)
    const rounds = wholeNumber('rounds', options.rounds, 1, 1000)
    const peer = options.peer ? await peerPackage(note, signal) : undefined
    const of: Cold = { preset, weights, workers, ids: promptIds(PRESETS[preset].vocab, tokens) }
    // Written, and read once: what is cold is the programs, not the disk.
    await presetFolder(preset)
    if (peer !== undefined) await presetGguf(preset, WEIGHT_PAIRS[weights].type)
    const sides = [
      { name: 'headrace', start: () => startOurs(of, signal), found: [] as Start[] },
      ...(peer ? [{ name: peer.version, start: () => startPeer(of, peer, signal), found: [] as Start[] }] : []),
    ]
    const missing: string[] = []
    for (let round = 0; round < rounds; round++)
      for (const { name, start, found } of rotated(sides, round))
        try {
          found.push(await start())
          note(`round ${round + 1} of ${rounds}: ${name} first token after ${found.at(-1)!.firstToken.toFixed(2)} s`)
        } catch (thrown) {
          signal.throwIfAborted()
          missing.push(`${name}, round ${round + 1}: ${asHeadraceError(thrown).message}`)
          note(missing.at(-1)!)
        }
    return report(of, sides, missing)
  },
})

interface Cold {
  readonly preset: PresetName
  readonly weights: ComparedWeights
  readonly workers: number
  readonly ids: readonly number[]
}

/** Seconds since the first process was started. */
interface Start {
  readonly ready: number
  readonly firstToken: number
}

/** As `headrace up`: coordinator, workers and decode node, each a process, all cores for all. */
async function startOurs({ preset, weights, workers, ids }: Cold, signal: AbortSignal): Promise<Start> {
  const started = performance.now()
  const { url, group } = await startLocalCluster(
    {
      model: await presetFolder(preset),
      workers,
      decodeNodes: 1,
      engine: 'onnx',
      weights,
      threads: undefined,
      pin: false,
      logLevel: 'warn',
      port: 0,
      strategy: 'auto',
    },
    signal,
  )
  try {
    const ready = (performance.now() - started) / 1000
    const body = { prompt: ids, max_tokens: 4, headrace: { ignore_eos: true } }
    const prompt = { path: '/v1/completions', body, about: '', answer: undefined }
    const either = AbortSignal.any([signal, group.failed])
    const { ttftSeconds } = await ask(url, prompt, { strategy: workers === 1 ? 'solo' : 'auto' }, either)
    return { ready, firstToken: ready + ttftSeconds }
  } finally {
    await group.stop()
  }
}

async function startPeer({ preset, weights, ids }: Cold, peer: PeerPackage, signal: AbortSignal): Promise<Start> {
  const started = performance.now()
  const threads = availableParallelism()
  const program = await Peer.start({ peer, preset, weights, threads, cores: coresOf(process.pid) }, signal)
  try {
    const { ms } = await program.prefill(ids, { flash: true, batch: 512 })
    const firstToken = (performance.now() - started) / 1000
    return { ready: firstToken - ms / 1000, firstToken }
  } finally {
    await program.stop()
  }
}

function report(
  { preset, weights, workers, ids }: Cold,
  sides: readonly { name: string; found: readonly Start[] }[],
  missing: readonly string[],
): Report {
  const measured = sides.filter(({ found }) => found.length > 0)
  return {
    parts: [
      { line: presetText(preset) },
      {
        line:
          `${WEIGHT_PAIRS[weights].text}, a prompt of ${ids.length} tokens, all cores for both; ours is a coordinator, ` +
          `${workers} prefill workers and a decode node, each a process that loads the model, and is ready once measured.`,
      },
      {
        title: 'Seconds since the first process was started: median (least-most)',
        head: columns('program, starts, ready for a prompt, first token'),
        rows: measured.map(({ name, found }) => [
          name,
          String(found.length),
          spreadText(spreadOf(found.map(({ ready }) => ready))),
          spreadText(spreadOf(found.map(({ firstToken }) => firstToken))),
        ]),
      },
      ...missing.map((what) => ({ line: `NOT MEASURED. ${what}` })),
    ],
    data: { preset, weights, workers, promptTokens: ids.length, sides, missing },
  }
}
