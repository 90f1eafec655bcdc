/** What runs tell about runs to come, apart from the costs of single workers. Pure. */

import type { Plan } from '../../shared/plan.ts'
import type { Pace } from '../planning/facts.ts'
import type { RunReport } from './events.ts'
import { edgeSecondsOf } from './measurements.ts'

export interface Forecast {
  /** Prompt tokens a second, for those who wait. 0: no run has ended yet. */
  readonly tokensPerSecond: number
  /** Seconds before the first and after the last arithmetic of a run; of the first run, a guess. */
  readonly edgeSeconds: number
  /** Seconds that arithmetic takes over those that were simulated: what the model leaves out, and the hour. */
  readonly pace: Pace
}

/** The first run of a process touches memory and compiles code that later ones find ready: measured, 0.07 to 0.15 s. */
const FIRST_RUN_SECONDS = 0.1

export const NO_FORECAST: Forecast = {
  tokensPerSecond: 0,
  edgeSeconds: FIRST_RUN_SECONDS,
  pace: { solo: 1, split: 1 },
}

/** The weight of a new run. */
const GAIN = 0.3
const EDGE_GAIN = 0.5
/** Of the pace, which is a small correction behind those of the workers' own costs and must not compete with them. */
const PACE_GAIN = 0.25
const MOST_OFF = 1.25
const [SLOWEST, FASTEST] = [1.5, 0.75]

/** @param besideOthers another run was on its way meanwhile, so that this one says nothing of what a run alone takes */
export function forecastAfter(forecast: Forecast, report: RunReport, besideOthers: boolean): Forecast {
  const { plan, promptTokens, ttftSeconds, queueSeconds, trace } = report
  const seconds = Math.max(ttftSeconds - queueSeconds, 1e-6)
  const tokensPerSecond = smoothed(forecast.tokensPerSecond, promptTokens / seconds)
  const edge = besideOthers ? undefined : edgeSecondsOf(trace)
  if (edge === undefined) return { ...forecast, tokensPerSecond }
  const edgeSeconds = forecast.edgeSeconds + EDGE_GAIN * (edge - forecast.edgeSeconds)
  const first = forecast.tokensPerSecond === 0
  const predicted = plan.predictedTtftSeconds - forecast.edgeSeconds
  // What is off where links are the limit is what is known of the links, and no arithmetic would mend it.
  const byLinks = plan.bound === 'link' || plan.bound === 'latency'
  if (first || byLinks || !(predicted > 0)) return { ...forecast, tokensPerSecond, edgeSeconds }
  const off = between(1 / MOST_OFF, (seconds - edge) / predicted, MOST_OFF)
  const kind = isSolo(plan) ? 'solo' : 'split'
  const pace = between(FASTEST, forecast.pace[kind] * (1 + PACE_GAIN * (off - 1)), SLOWEST)
  return { tokensPerSecond, edgeSeconds, pace: { ...forecast.pace, [kind]: pace } }
}

const isSolo = ({ workers, promptTokens, prefillTokens }: Plan): boolean =>
  workers.length === 1 && promptTokens - prefillTokens < 2

const smoothed = (old: number, found: number): number => (old === 0 ? found : old + GAIN * (found - old))

const between = (least: number, value: number, most: number): number => Math.min(Math.max(value, least), most)
