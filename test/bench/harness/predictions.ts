import { percent } from './report.ts'
import { median } from './statistics.ts'

/** How well the planner knew. Pure. */

export interface Foretold {
  readonly predictedSeconds: number
  readonly measuredSeconds: number
}

/** By how much of the measured time the prediction was off. */
export const relativeError = ({ predictedSeconds, measuredSeconds }: Foretold): number =>
  Math.abs(predictedSeconds - measuredSeconds) / measuredSeconds

export function accuracyOf(runs: readonly Foretold[]) {
  const errors = runs.map(relativeError)
  return { runs: runs.length, medianError: median(errors), worstError: Math.max(...errors) }
}

export function accuracyText(runs: readonly Foretold[]): string {
  const { medianError, worstError } = accuracyOf(runs)
  return `Predictions against ${runs.length} runs: off by ${percent(medianError)} in the median, ${percent(worstError)} at worst.`
}

/** What the planner's choice costs beside the best of what was tried: 1.00 is the best choice. */
export function regretOf(chosenSeconds: number, tried: readonly { label: string; seconds: number }[]) {
  const best = tried.reduce((least, one) => (one.seconds < least.seconds ? one : least))
  return { best: best.label, ratio: chosenSeconds / best.seconds }
}
