import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { type Forecast, forecastAfter, NO_FORECAST } from '../../../coordinator/runs/forecast.ts'
import { edgeSecondsOf } from '../../../coordinator/runs/measurements.ts'
import { tracedReport } from '../../support/sample-trace.ts'

const report = tracedReport()
const edge = edgeSecondsOf(report.trace)!
const pipeline = report.ttftSeconds - report.queueSeconds - edge

/** The run again and again, planned with what was known, by a simulation that is off by `factor`. */
function settled(factor: number, runs = 200): Forecast {
  let forecast = NO_FORECAST
  for (let run = 0; run < runs; run++) {
    const predictedTtftSeconds = forecast.edgeSeconds + (forecast.pace.split * pipeline) / factor
    forecast = forecastAfter(forecast, { ...report, plan: { ...report.plan, predictedTtftSeconds } }, false)
  }
  return forecast
}

describe('the forecast', () => {
  it('takes the first run at its word, but for what only the first one takes', () => {
    const { tokensPerSecond, edgeSeconds, pace } = settled(1.3, 1)
    assert.equal(tokensPerSecond, report.promptTokens / (report.ttftSeconds - report.queueSeconds))
    assert.equal(edgeSeconds, (NO_FORECAST.edgeSeconds + edge) / 2)
    assert.deepEqual(pace, { solo: 1, split: 1 })
  })

  it('comes to know what lies before and after the arithmetic', () => {
    assert.ok(Math.abs(settled(1).edgeSeconds - edge) < 1e-9)
  })

  it('learns by what factor simulations are off, in either direction', () => {
    for (const factor of [0.8, 0.95, 1, 1.1, 1.4]) assert.ok(Math.abs(settled(factor).pace.split - factor) < 1e-6)
  })

  it('does not take it that one worker alone is late because several are that wait for each other', () => {
    const { plan } = report
    const solo = { ...plan, workers: plan.workers.slice(0, 1), prefillTokens: plan.promptTokens - 1 }
    const late = { ...solo, predictedTtftSeconds: pipeline / 1.1 }
    const { pace } = forecastAfter(settled(1.3), { ...report, plan: late }, false)
    assert.ok(Math.abs(pace.split - 1.3) < 1e-6 && pace.solo > 1 && pace.solo < 1.1, JSON.stringify(pace))
  })

  it('believes neither a single run nor a hopeless model', () => {
    assert.ok(settled(10, 2).pace.split < 1.07 && settled(0.1, 2).pace.split > 0.94)
    assert.equal(settled(3).pace.split, 1.5)
    assert.equal(settled(0.2).pace.split, 0.75)
  })

  it('learns nothing of arithmetic where links are the limit', () => {
    for (const bound of ['link', 'latency'] as const) {
      const plan = { ...report.plan, bound, predictedTtftSeconds: pipeline / 2 }
      assert.deepEqual(forecastAfter(NO_FORECAST, { ...report, plan }, false).pace, { solo: 1, split: 1 })
    }
  })

  it('learns nothing of a run alone from one beside others, or without a trace', () => {
    const known = settled(1.2)
    const slow = { ...report, ttftSeconds: 100 }
    for (const after of [
      forecastAfter(known, slow, true),
      forecastAfter(known, { ...slow, trace: { ...slow.trace, workers: [] } }, false),
    ]) {
      assert.deepEqual([after.edgeSeconds, after.pace], [known.edgeSeconds, known.pace])
      assert.ok(after.tokensPerSecond < known.tokensPerSecond)
    }
  })
})
