import type { Checked } from '../../shared/protocol/control.ts'
import type { ReceivedBlock } from '../../worker/prefill/exchange.ts'
import type { History } from './history.ts'

/** Where a block belongs, and the checksum of what was found there. */
interface Taken {
  readonly layer: number
  readonly start: number
  readonly sum: number
  readonly right: boolean
}

/** What was taken in one attempt of a run, by place. */
interface Attempt {
  /** A liar had a part in it: what comes of it may be wrong until a check has found that. */
  lied: boolean
  readonly cache: Map<string, Taken>
  /** By worker: whoever has to compute a second time may be given other blocks then. */
  readonly prefixes: Map<string, Taken[]>
}

/**
 * Who took which KV block for which attempt. Without a liar no wrong block may be taken; with one, none may be left in a
 * cache that a token is computed from, and nobody else may be blamed, but in one case: a worker that was given another
 * block than the decode node computes, rightly, what the decode node must find wrong.
 */
export class Ledger {
  readonly #liars = new Set<string>()
  readonly #attempts = new Map<string, Attempt>()
  readonly #history: History
  readonly #violated: (what: string) => void

  constructor(history: History, violated: (what: string) => void) {
    this.#history = history
    this.#violated = violated
  }

  lied(worker: string, run: string): void {
    this.#liars.add(worker)
    this.#attempt(run).lied = true
    this.#history.note('lied', worker, run)
  }

  /** @param decodes the block goes into the cache of the run, not to somebody who computes on top of it */
  took(worker: string, run: string, decodes: boolean, block: ReceivedBlock, right: boolean): void {
    const { layer, start, crc32: sum } = block
    const attempt = this.#attempt(run)
    if (!right && !attempt.lied)
      this.#violated(`${worker} took a wrong block of layer ${layer} at ${start} into ${run}`)
    if (!right) this.#history.saw(decodes ? 'a lie came to a decode node' : 'a lie came to a neighbour')
    const taken = { layer, start, sum, right }
    if (decodes) attempt.cache.set(`${layer} ${start}`, taken)
    else attempt.prefixes.set(worker, [...(attempt.prefixes.get(worker) ?? []), taken])
  }

  /** A token is about to be told. */
  answers(worker: string, run: string): void {
    for (const { layer, start, right } of this.#attempt(run).cache.values())
      if (!right) this.#violated(`${worker} answers ${run} from a wrong block of layer ${layer} at ${start}`)
  }

  /** A check found a block of this worker to be wrong. */
  blamed({ run, worker, layer, start }: Checked): void {
    this.#history.note('blamed', worker, run, layer, start)
    if (this.#liars.has(worker)) this.#history.saw('a liar was found')
    else if (this.#misled(run, worker, layer, start)) this.#history.saw('a worker was blamed for the lies of another')
    else this.#violated(`${worker}, which is honest, was blamed for layer ${layer} at ${start} of ${run}`)
  }

  #misled(run: string, worker: string, layer: number, start: number): boolean {
    const { prefixes, cache } = this.#attempt(run)
    const inHand = (given: Taken): boolean => cache.get(`${given.layer} ${given.start}`)?.sum === given.sum
    const given = prefixes.get(worker) ?? []
    return given.some((block) => block.layer < layer && block.start < start && !inHand(block))
  }

  /** `run-1.2.3` is a part of `run-1.2`, the second attempt of `run-1`. */
  #attempt(run: string): Attempt {
    const name = run.split('.').slice(0, 2).join('.')
    const known = this.#attempts.get(name)
    if (known !== undefined) return known
    const attempt = { lied: false, cache: new Map(), prefixes: new Map() }
    this.#attempts.set(name, attempt)
    return attempt
  }
}
