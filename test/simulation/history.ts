/** What happened in a simulation: a hash of all of it, and the last of it in words. */
const KEPT = 20_000

export class History {
  readonly #lines: (readonly [number, string, ...(string | number)[]])[] = []
  #hash = 0x811c9dc5
  count = 0
  /** What the simulation has seen at least once, of what it should be able to see. */
  readonly seen = new Map<string, number>()
  readonly #now: () => number

  readonly #explained: boolean

  /** @param explained also keeps what costs time to put in words; the hash is the same */
  constructor(now: () => number, explained = false) {
    this.#now = now
    this.#explained = explained
  }

  explain(what: string, of: () => (string | number)[]): void {
    if (this.#explained) this.#keep([this.#now(), what, ...of()])
  }

  note(what: string, ...of: (string | number)[]): void {
    const now = this.#now()
    const line = [now, what, ...of] as const
    this.#mix(`${now}`)
    for (let i = 1; i < line.length; i++) this.#mix(`${line[i]}`)
    this.#keep(line)
  }

  #keep(line: readonly [number, string, ...(string | number)[]]): void {
    if (this.#lines.length < KEPT) this.#lines.push(line)
    else this.#lines[this.count % KEPT] = line
    this.count++
  }

  saw(what: string, times = 1): void {
    this.seen.set(what, (this.seen.get(what) ?? 0) + times)
  }

  get hash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0')
  }

  /** The last `most` lines. */
  tail(most: number): string[] {
    const from = this.count % this.#lines.length
    const inOrder = this.count > KEPT ? [...this.#lines.slice(from), ...this.#lines.slice(0, from)] : this.#lines
    return inOrder.slice(-most).map(([at, what, ...of]) => `${at.toFixed(6).padStart(11)}  ${what} ${of.join(' ')}`)
  }

  /** FNV-1a. */
  #mix(text: string): void {
    for (let i = 0; i < text.length; i++) this.#hash = Math.imul(this.#hash ^ text.charCodeAt(i), 0x01000193)
  }
}
