import { setFlagsFromString } from 'node:v8'
import type { Clock } from '../../shared/clock.ts'
import { abortError } from '../../shared/errors.ts'

/**
 * Virtual time. All that happens in a simulation is an event of one heap, ordered by time and, at the same time, by when it
 * was put there. Between two events every promise that can go on does: so one seed has one history, as long as nothing
 * waits for a real timer, thread or socket.
 */

interface Event {
  readonly at: number
  readonly order: number
  work: (() => void) | undefined
}

// `queueMicrotask` and promises wait until the stack is empty; an event loop's turn for each event would be most of the
// time of a simulation. This is what Node itself does at the end of a turn.
setFlagsFromString('--allow-natives-syntax')
const settlePromises = new Function('%PerformMicrotaskCheckpoint()') as () => void

export class Timeline {
  #now = 0
  #order = 0
  /** Events so far. */
  count = 0
  readonly #heap: Event[] = []

  get now(): number {
    return this.#now
  }

  /** Returns what takes it back. */
  after(seconds: number, work: () => void): () => void {
    const event: Event = { at: this.#now + Math.max(0, seconds), order: this.#order++, work }
    this.#push(event)
    return () => {
      event.work = undefined
    }
  }

  /**
   * Lets events happen until `until` says so, none is left, or time has passed `deadline`. Must be called from a turn of
   * the event loop, not from a promise. `each` is called after every event.
   */
  run(of: { until: () => boolean; deadline: number; each: () => void }): void {
    settlePromises()
    while (!of.until()) {
      const event = this.#heap[0]
      if (event === undefined || event.at > of.deadline) return
      this.#pop()
      if (event.work === undefined) continue
      this.#now = event.at
      this.count++
      event.work()
      settlePromises()
      of.each()
    }
  }

  #push(event: Event): void {
    const heap = this.#heap
    let at = heap.push(event) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(event, heap[parent]!)) break
      heap[at] = heap[parent]!
      at = parent
    }
    heap[at] = event
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()!
    if (heap.length === 0) return
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
      if (!before(heap[child]!, last)) break
      heap[at] = heap[child]!
      at = child
    }
    heap[at] = last
  }
}

const before = (a: Event, b: Event): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)

/**
 * One life of a process: what is scheduled through it happens only while it lives, and waits while it is frozen (SIGSTOP).
 * A killed process stays dead; its host starts another one.
 */
export class SimProcess {
  readonly host: string
  readonly clock: Clock
  /** How many times slower than usual it computes. */
  slow = 1
  readonly #timeline: Timeline
  readonly #ended = new Set<() => void>()
  readonly #thawed = new Set<() => void>()
  #held: { work: (() => void) | undefined }[] = []
  #state: 'runs' | 'frozen' | 'dead' = 'runs'
  #sleeping = 0

  /** @param offset what its clock says at the beginning of time: clocks of two hosts have nothing in common */
  constructor(timeline: Timeline, host: string, offset: number) {
    this.#timeline = timeline
    this.host = host
    this.clock = {
      now: () => timeline.now + offset,
      sleep: (seconds, signal) => this.#sleep(seconds, signal),
    }
  }

  get alive(): boolean {
    return this.#state !== 'dead'
  }

  get frozen(): boolean {
    return this.#state === 'frozen'
  }

  /** Timers that wait. */
  get sleeping(): number {
    return this.#sleeping
  }

  after(seconds: number, work: () => void): () => void {
    const item: { work: (() => void) | undefined } = { work }
    this.#timeline.after(seconds, () => {
      if (this.#state === 'frozen') this.#held.push(item)
      else if (this.#state === 'runs') item.work?.()
    })
    return () => {
      item.work = undefined
    }
  }

  /** Arithmetic that takes so long on a processor at its usual speed. */
  compute(seconds: number): Promise<void> {
    return new Promise((resolve) => this.after(seconds * this.slow, resolve))
  }

  freeze(): void {
    if (this.#state === 'runs') this.#state = 'frozen'
  }

  thaw(): void {
    if (this.#state !== 'frozen') return
    this.#state = 'runs'
    for (const item of this.#held.splice(0)) this.after(0, () => item.work?.())
    for (const tell of [...this.#thawed]) tell()
  }

  kill(): void {
    if (this.#state === 'dead') return
    this.#state = 'dead'
    this.#held = []
    for (const tell of [...this.#ended]) tell()
  }

  /** Called by the world around the process, which sees it end. */
  onEnd(tell: () => void): () => void {
    this.#ended.add(tell)
    return () => this.#ended.delete(tell)
  }

  onThaw(tell: () => void): () => void {
    this.#thawed.add(tell)
    return () => this.#thawed.delete(tell)
  }

  #sleep(seconds: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(abortError(signal))
      this.#sleeping++
      const onAbort = (): void => {
        this.#sleeping--
        cancel()
        if (signal !== undefined) reject(abortError(signal))
      }
      const cancel = this.after(Math.ceil(seconds * 1000) / 1000, () => {
        this.#sleeping--
        signal?.removeEventListener('abort', onAbort)
        resolve()
      })
      signal?.addEventListener('abort', onAbort, { once: true })
    })
  }
}
