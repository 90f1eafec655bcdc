import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import type { Engine, Kv } from '../engine/engine.ts'

/** How long KV is kept that no run uses: a client whose coordinator was started anew asks again within this. */
const KEEP_SECONDS = 120
/** Prompts whose KV is kept at once. The oldest makes way. */
const MOST_KEPT = 4

/** The KV of a whole prompt, computed. */
export interface PromptKv {
  readonly promptTokens: number
  /** Positions that there is room for: prompt and answer. */
  readonly capacity: number
  readonly kv_layers: readonly Kv[]
  /** Of the prompt's last position, `[vocab]`. */
  readonly logits: Float32Array
}

interface Kept extends PromptKv {
  readonly bytes: number
  /** Aborted when it is kept no more. */
  readonly over: AbortController
}

/**
 * The memory that a worker has for runs, in bytes. What runs take is theirs; what is left of it holds, at a decode node and
 * for a while, KV that has outlived its run, for somebody who asks the same again: that makes way for any run.
 */
export class KvMemory {
  readonly #of: KvMemoryOptions
  /** In the order of keeping. */
  readonly #kept = new Map<string, Kept>()
  #taken = 0
  #closed = false

  constructor(of: KvMemoryOptions) {
    this.#of = of
  }

  /** Of runs. */
  get taken(): number {
    return this.#taken
  }

  /** What has outlived its run. */
  get kept(): { readonly caches: number; readonly bytes: number } {
    return { caches: this.#kept.size, bytes: [...this.#kept.values()].reduce((sum, { bytes }) => sum + bytes, 0) }
  }

  /** Memory for a run, and what `make` makes in there. @throws HeadraceError `out_of_memory` */
  takeFor<T>(bytes: number, make: () => T): T {
    const { budgetBytes } = this.#of
    const free = budgetBytes - this.#taken
    if (bytes > free)
      throw new HeadraceError('out_of_memory', `a run that takes ${bytes} bytes does not fit the budget`, {
        details: { bytes, budgetBytes: free },
      })
    for (const name of this.#kept.keys()) {
      if (this.kept.bytes <= free - bytes) break
      this.#drop(name)
    }
    const made = make()
    this.#taken += bytes
    return made
  }

  /** Work that takes memory for as long as it lasts. @throws HeadraceError `out_of_memory` */
  async within<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    this.takeFor(bytes, () => undefined)
    try {
      return await work()
    } finally {
      this.give(bytes)
    }
  }

  /** A run has no more use for what it took. */
  give(bytes: number): void {
    this.#taken -= bytes
  }

  /** A run gives what it took, of `bytes`, and the KV in there stays. */
  keep(name: string, kv: PromptKv, bytes: number): void {
    this.#drop(name)
    this.#taken -= bytes
    if (this.#closed) {
      this.#of.engine.release(...kv.kv_layers)
      return
    }
    const over = new AbortController()
    this.#kept.set(name, { ...kv, bytes, over })
    this.#of.clock.sleep(KEEP_SECONDS, over.signal).then(
      () => this.#drop(name),
      () => undefined, // it was dropped, or a run has it
    )
    const [oldest] = this.#kept.keys()
    if (this.#kept.size > MOST_KEPT && oldest !== undefined) this.#drop(oldest)
    this.#tell()
  }

  /**
   * What was kept is a run's again, with its memory.
   * @throws HeadraceError `kv_gone` if it is not there, or is of another prompt or answer
   */
  resume(name: string, { promptTokens, capacity }: Pick<PromptKv, 'promptTokens' | 'capacity'>): PromptKv {
    const kept = this.#kept.get(name)
    if (kept === undefined || kept.promptTokens !== promptTokens || kept.capacity !== capacity)
      throw new HeadraceError('kv_gone', 'the KV of this prompt is not here any more')
    this.#forget(name, kept)
    this.#taken += kept.bytes
    return kept
  }

  /** Nothing is kept any more. */
  close(): void {
    this.#closed = true
    for (const name of this.#kept.keys()) this.#drop(name)
  }

  #drop(name: string): void {
    const kept = this.#kept.get(name)
    if (kept === undefined) return
    this.#forget(name, kept)
    this.#of.engine.release(...kept.kv_layers)
  }

  #forget(name: string, { over }: Kept): void {
    this.#kept.delete(name)
    over.abort()
    this.#tell()
  }

  #tell(): void {
    this.#of.onKept([...this.#kept.keys()])
  }
}

export interface KvMemoryOptions {
  readonly budgetBytes: number
  readonly engine: Pick<Engine, 'release'>
  readonly clock: Clock
  /** Told the names of all that is kept, whenever that has changed. */
  readonly onKept: (names: readonly string[]) => void
}
