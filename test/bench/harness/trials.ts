import { type Asked, ask, type How, type Prompt } from './ask.ts'
import { type BenchCluster, type Load, underWatch } from './cluster.ts'
import type { Foretold } from './predictions.ts'
import { rotated } from './statistics.ts'

/** Several ways to compute one prompt, measured in turn. */

export interface Candidate {
  readonly label: string
  readonly how: How
}

export interface Trial {
  readonly label: string
  readonly asked: Asked
  readonly load: Load
}

/** The planner's own choice. */
export const CHOSEN: Candidate = { label: 'chosen', how: {} }
export const SOLO: Candidate = { label: 'solo', how: { strategy: 'solo' } }

export const splitOver = (strategy: 'chain' | 'ring', workers: number): Candidate => ({
  label: `${strategy} ${workers}`,
  how: { strategy, workers },
})

/** The same number of tokens for each, whatever they cost. */
export const evenSplit = (strategy: 'chain' | 'ring', workers: number): Candidate => ({
  label: `${strategy} ${workers} even`,
  how: { strategy, shares: new Array<number>(workers).fill(1) },
})

/** Everything that the planner may choose between: solo, and every strategy over every number of workers. */
export const everyCandidate = (workers: number): Candidate[] => [
  SOLO,
  ...(['chain', 'ring'] as const).flatMap((strategy) =>
    Array.from({ length: workers - 1 }, (_, i) => splitOver(strategy, i + 2)),
  ),
]

export interface Rounds {
  readonly rounds: number
  readonly warmup: number
  readonly note: (text: string) => void
}

/** Every candidate once a round, each round beginning one further on; warm-up rounds do not count. */
export async function tryInTurn(
  cluster: BenchCluster,
  prompt: Prompt,
  candidates: readonly Candidate[],
  { rounds, warmup, note }: Rounds,
): Promise<Trial[]> {
  const trials: Trial[] = []
  for (let round = -warmup; round < rounds; round++)
    for (const candidate of rotated(candidates, round + warmup)) {
      const trial = await tryOnce(cluster, prompt, candidate)
      if (round >= 0) trials.push(trial)
      note(`${round < 0 ? 'warm-up' : `round ${round + 1} of ${rounds}`}: ${trialText(trial)}`)
    }
  return trials
}

export async function tryOnce(cluster: BenchCluster, prompt: Prompt, { label, how }: Candidate): Promise<Trial> {
  const { result: asked, load } = await underWatch(cluster, () => ask(cluster.url, prompt, how, cluster.signal))
  return { label, asked, load }
}

export const ofLabel = (trials: readonly Trial[], label: string): Trial[] =>
  trials.filter((trial) => trial.label === label)

export const foretold = ({ asked: { prefill } }: Trial): Foretold => ({
  predictedSeconds: prefill.predicted_ttft_seconds,
  measuredSeconds: prefill.ttft_seconds - prefill.queue_seconds,
})

/** `chain 3`: what a run was, however it came to be that. */
export const shapeText = ({ asked: { prefill } }: Trial): string =>
  prefill.strategy === 'solo' ? 'solo' : `${prefill.strategy} ${prefill.workers.length}`

function trialText(trial: Trial): string {
  const { measuredSeconds, predictedSeconds } = foretold(trial)
  const tokens = trial.asked.prefill.workers.map(({ tokens: count }) => count).join(' + ')
  return `${trial.label.padEnd(12)} ${measuredSeconds.toFixed(2)} s, ${predictedSeconds.toFixed(2)} s predicted (${tokens} tokens)`
}
