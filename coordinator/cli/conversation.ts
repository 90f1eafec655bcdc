import type { Writable } from 'node:stream'
import { type Chat, type PrefillInfo, streamChat, type Timings } from './client.ts'
import { bytes, progressBar, seconds, spansText, table } from './table.ts'

/** One question on a terminal: a bar while the prompt is computed, then the answer as it comes. */

export interface Outcome {
  readonly answer: string
  readonly prefill: PrefillInfo
  readonly timings: Timings
}

export async function converse(
  url: string,
  chat: Chat,
  to: { answer: Writable; notes: Writable & { isTTY?: boolean } },
  signal: AbortSignal,
): Promise<Outcome> {
  let answer = ''
  let last: Pick<Outcome, 'prefill' | 'timings'> | undefined
  const bar = new Bar(to.notes)
  for await (const { choices, prompt_progress, prefill, timings } of streamChat(url, chat, signal)) {
    if (prompt_progress) bar.show(prompt_progress.processed, prompt_progress.total, prompt_progress.time_ms / 1000)
    const text = choices[0]?.delta?.content ?? ''
    if (text !== '') {
      bar.end()
      to.answer.write(text)
      answer += text
    }
    if (prefill && timings) last = { prefill, timings }
  }
  bar.end()
  to.answer.write('\n')
  if (last === undefined) throw new Error('the stream ended without an account of the prefill')
  return { answer: answer.trim(), ...last }
}

/** Where the time of each worker went, a line each. */
export function workersTable({ prefill }: Pick<Outcome, 'prefill'>): string {
  const rows = prefill.workers.map(({ id, spans, tokens, compute_seconds, wait_seconds, send_seconds }) => [
    prefill.strategy,
    id,
    spansText(spans),
    String(tokens),
    seconds(compute_seconds ?? 0),
    seconds(wait_seconds ?? 0),
    seconds(send_seconds ?? 0),
    (prefill.links ?? [])
      .filter(({ from }) => from === id)
      .map((link) => `${link.to} ${bytes(link.bytes)}`)
      .join(', '),
  ])
  return table(['strategy', 'worker', 'span', 'tokens', 'compute', 'wait', 'send', 'sent to'], rows)
}

export function runLine({ prefill, timings }: Pick<Outcome, 'prefill' | 'timings'>): string {
  const predicted = `predicted ${seconds(prefill.predicted_ttft_seconds)}`
  const speed = `${timings.prompt_per_second.toFixed(0)} prompt tokens/s`
  const first = `first token after ${seconds(prefill.ttft_seconds)} (${predicted})`
  const bottleneck = prefill.bottleneck === undefined ? '' : `; bottleneck: ${prefill.bottleneck}`
  return `${prefill.strategy} over ${prefill.workers.length}: ${first}, ${speed}${bottleneck}${mixedText(prefill)}`
}

/** Who computed with what, where that was not the same for all. */
function mixedText({ mixed_precision: mixed, workers, decode, decode_precision }: PrefillInfo): string {
  if (!mixed) return ''
  const parts = [...workers, { id: decode, precision: decode_precision }]
  return `; mixed precision: ${parts.map(({ id, precision }) => `${id} ${precision}`).join(', ')}`
}

/** Redrawn in place on a terminal; elsewhere silent, so that logs stay readable. */
class Bar {
  readonly #to: Writable & { isTTY?: boolean }
  #shown = false

  constructor(to: Writable & { isTTY?: boolean }) {
    this.#to = to
  }

  show(processed: number, total: number, elapsedSeconds: number): void {
    if (!this.#to.isTTY) return
    this.#to.write(`\r${progressBar(processed, total, elapsedSeconds)}\x1b[K`)
    this.#shown = true
  }

  end(): void {
    if (this.#shown) this.#to.write('\r\x1b[K')
    this.#shown = false
  }
}
