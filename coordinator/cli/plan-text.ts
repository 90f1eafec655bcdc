import { seconds, spansText, table } from './table.ts'

/** What `GET /v1/plan` answers, as far as it is printed. */
export interface PlanAnswer {
  readonly chosen: Candidate
  /** Best first. */
  readonly candidates: readonly Candidate[]
}

interface Candidate {
  readonly strategy: string
  readonly workers: readonly CandidateWorker[]
  readonly decode: string
  readonly decode_tokens: number
  readonly predicted_ttft_seconds: number
  readonly bound: string
  readonly bound_by: string
}

interface CandidateWorker {
  readonly id: string
  readonly spans: readonly (readonly [number, number])[]
  readonly prefix_wire: string
  readonly handoff_wire: string
}

/** A table of the candidates, and in one sentence what each number of workers would bring. */
export function planText({ chosen, candidates }: PlanAnswer): string {
  const rows = candidates.map((candidate) => [
    candidate.strategy,
    String(candidate.workers.length),
    seconds(candidate.predicted_ttft_seconds),
    candidate.bound_by,
    partsText(candidate),
  ])
  return `${table(['strategy', 'workers', 'first token', 'bound by', 'spans'], rows)}\n\n${sentence(chosen, candidates)}`
}

/** Who computes what, with the precision of the blocks where it is not exact. The last token is always the decode node's. */
function partsText({ workers, decode, decode_tokens }: Candidate): string {
  const parts = workers.map(({ id, spans, prefix_wire, handoff_wire }) => {
    const narrow = [prefix_wire, handoff_wire].some((wire) => wire !== 'f32')
    return `${id} ${spansText(spans)}${narrow ? ` (${prefix_wire}, hand-off ${handoff_wire})` : ''}`
  })
  const more = decode_tokens > 1 || workers.length === 0
  return [...parts, ...(more ? [`${decode} the last ${decode_tokens}`] : [])].join(', ')
}

/** `solo 41.2 s, 2 workers 21.5 s, 3 workers 16.4 s (link worker-3 to decode-1): would use 2` */
function sentence(chosen: Candidate, candidates: readonly Candidate[]): string {
  const best = new Map<string, Candidate>()
  for (const candidate of candidates) {
    const who = whoText(candidate)
    if (!best.has(who)) best.set(who, candidate)
  }
  const machines = ({ workers, decode_tokens }: Candidate): number => workers.length + Number(decode_tokens > 1)
  const parts = [...best]
    .toSorted(([, x], [, y]) => machines(x) - machines(y) || x.workers.length - y.workers.length)
    .map(([who, { predicted_ttft_seconds, bound, bound_by }]) => {
      const why = bound === 'compute' ? '' : ` (${bound_by})`
      return `${who} ${seconds(predicted_ttft_seconds)}${why}`
    })
  return `${parts.join(', ')}: would use ${useText(chosen)}`
}

function whoText({ workers, decode_tokens }: Candidate): string {
  if (workers.length === 0) return 'decode node alone'
  const count = workers.length === 1 ? '1 worker' : `${workers.length} workers`
  if (decode_tokens > 1) return `${count} and the decode node`
  return workers.length === 1 ? 'solo' : count
}

function useText(chosen: Candidate): string {
  const { workers, strategy, decode, decode_tokens } = chosen
  if (workers.length === 0) return decode
  if (workers.length === 1) return decode_tokens > 1 ? `${workers[0]!.id} and ${decode}` : `${workers[0]!.id} alone`
  return `${workers.length}, ${strategy}`
}
