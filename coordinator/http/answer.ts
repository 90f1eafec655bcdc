import { randomUUID } from 'node:crypto'
import { type Plan, type Span, spanTokens } from '../../shared/plan.ts'
import type { RunReport } from '../runs/events.ts'
import type { ModelFacts } from './deps.ts'

/** The parts that every answer has: OpenAI's head and usage, llama-server's timings, and our own account of the prefill. */

export interface Head {
  readonly id: string
  readonly object: string
  readonly created: number
  readonly model: string
  readonly system_fingerprint: string
}

export function answerHead(prefix: 'chatcmpl' | 'cmpl', object: string, model: ModelFacts): Head {
  return {
    id: `${prefix}-${randomUUID().replaceAll('-', '')}`,
    object,
    created: Math.floor(Date.now() / 1000),
    model: model.name,
    system_fingerprint: `fp_${model.fingerprint.slice(0, 12)}`,
  }
}

export function usageOf({ promptTokens, cachedTokens, completionTokens }: RunReport) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens, audio_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 },
  }
}

/** llama-server's names, because tools read them: prompt_n + cache_n + predicted_n is the context in use. */
export function timingsOf(report: RunReport) {
  const promptTokens = report.promptTokens - report.cachedTokens
  const promptMs = Math.max(0, report.ttftSeconds - report.queueSeconds) * 1000
  const predictedMs = report.decodeSeconds * 1000
  return {
    cache_n: report.cachedTokens,
    prompt_n: promptTokens,
    prompt_ms: promptMs,
    prompt_per_token_ms: ratio(promptMs, promptTokens),
    prompt_per_second: ratio(promptTokens * 1000, promptMs),
    predicted_n: report.completionTokens,
    predicted_ms: predictedMs,
    predicted_per_token_ms: ratio(predictedMs, report.completionTokens),
    predicted_per_second: ratio(report.completionTokens * 1000, predictedMs),
  }
}

/** Who computed what, and where the time to the first token went. */
export function prefillOf(report: RunReport) {
  const { run, plan, precisions, workers, queueSeconds, ttftSeconds, bottleneck } = report
  return {
    run,
    strategy: plan.strategy,
    workers: plan.workers.map(({ worker, spans }) => {
      const report = workers.find((candidate) => candidate.worker === worker && candidate.role === 'prefill')
      return {
        id: worker,
        precision: precisions[worker],
        spans: spans.map(spanPair),
        tokens: spanTokens(spans),
        ...(report === undefined
          ? {}
          : {
              compute_seconds: report.computeSeconds,
              ...(report.movingSeconds === undefined ? {} : { moving_seconds: report.movingSeconds }),
              wait_seconds: report.waitSeconds,
              send_seconds: report.sendSeconds,
            }),
      }
    }),
    links: linksOf(workers),
    decode: plan.decode,
    decode_precision: precisions[plan.decode],
    mixed_precision: new Set(Object.values(precisions)).size > 1,
    decode_tokens: plan.promptTokens - plan.prefillTokens,
    queue_seconds: queueSeconds,
    ttft_seconds: ttftSeconds,
    predicted_ttft_seconds: plan.predictedTtftSeconds,
    bottleneck,
    attempts: report.attempts,
    repairs: report.repairs.map(({ worker, code, tokens, at }) => ({ worker, code, tokens, at_seconds: at })),
  }
}

/** A plan as `GET /v1/plan` shows it, in the words of `prefill`. */
export function planOf(plan: Plan) {
  return {
    strategy: plan.strategy,
    workers: plan.workers.map(({ worker, spans, computeSeconds, prefixWire, handoffWire }) => ({
      id: worker,
      spans: spans.map(spanPair),
      tokens: spanTokens(spans),
      compute_seconds: computeSeconds,
      prefix_wire: prefixWire,
      handoff_wire: handoffWire,
    })),
    decode: plan.decode,
    decode_tokens: plan.promptTokens - plan.prefillTokens,
    predicted_ttft_seconds: plan.predictedTtftSeconds,
    bound: plan.bound,
    bound_by: plan.boundBy,
  }
}

const linksOf = (workers: RunReport['workers']) =>
  workers.flatMap(({ worker, sent }) => sent.map(({ to, bytes }) => ({ from: worker, to, bytes })))

const spanPair = ({ start, end }: Span): [number, number] => [start, end]

const ratio = (part: number, whole: number) => (whole > 0 ? part / whole : 0)
