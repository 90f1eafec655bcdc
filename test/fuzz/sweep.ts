import { getHeapStatistics } from 'node:v8'
import { Dice } from './dice.ts'
import { targetOf } from './targets.ts'

/** Inputs `from` to `to` of one target, in a process of their own. */
export interface Stretch {
  readonly seed: number
  readonly target: string
  readonly from: number
  readonly to: number
}

/** An input that broke the rules. */
export interface Finding {
  readonly target: string
  readonly seed: number
  readonly index: number
  readonly hex: string
  readonly what: string
}

export interface Swept {
  readonly target: string
  readonly inputs: number
  /** How often each answer was given. */
  readonly outcomes: Readonly<Record<string, number>>
  readonly findings: readonly Finding[]
  /** Of the slowest input. */
  readonly mostSeconds: number
  readonly slowest: number
  /** That the heap, and memory outside it, grew by during one input. */
  readonly mostBytes: number
  readonly seconds: number
}

/** What an input may take in memory beyond its own size: objects are large beside the bytes that they are read from. */
const MOST_BYTES = 32 << 20
const BYTES_PER_BYTE = 64
/** One fault shows in many inputs: of each kind the first is told. */
const MOST_FINDINGS = 20

/** @param at is told each input before it is read */
export async function sweep(of: Stretch, at: (index: number) => void): Promise<Swept> {
  const { input, take, close } = await targetOf(of.target).open()
  const outcomes: Record<string, number> = {}
  const findings = new Map<string, Finding>()
  let [mostSeconds, slowest, mostBytes] = [0, of.from, 0]
  const astray: unknown[] = []
  const note = (reason: unknown): void => void astray.push(reason)
  process.on('unhandledRejection', note).on('uncaughtException', note)
  const started = performance.now()
  for (let index = of.from; index < of.to; index++) {
    at(index)
    const bytes = input(Dice.of(of.seed, of.target, index))
    const before = memory()
    const began = performance.now()
    const fault = (thrown: unknown): void => {
      const what = describe(thrown)
      const kind = what.replaceAll(/\d+|"[^"]*"/g, '#').slice(0, 300)
      if (findings.size < MOST_FINDINGS && !findings.has(kind))
        findings.set(kind, { target: of.target, seed: of.seed, index, hex: Buffer.from(bytes).toString('hex'), what })
    }
    try {
      const answer = take(bytes)
      const outcome = typeof answer === 'string' ? answer : await answer
      outcomes[outcome] = (outcomes[outcome] ?? 0) + 1
    } catch (thrown) {
      fault(thrown)
    }
    const took = (performance.now() - began) / 1000
    if (took > mostSeconds) [mostSeconds, slowest] = [took, index]
    const grown = memory() - before
    mostBytes = Math.max(mostBytes, grown)
    if (grown > MOST_BYTES + BYTES_PER_BYTE * bytes.length) fault(`${grown} bytes of memory for ${bytes.length}`)
    // Rejections that nobody heard are told between turns of the event loop.
    if (index % 64 === 0) await new Promise((resolve) => setImmediate(resolve))
    for (const reason of astray.splice(0)) fault(reason)
  }
  await close?.()
  process.off('unhandledRejection', note).off('uncaughtException', note)
  const seconds = (performance.now() - started) / 1000
  const inputs = of.to - of.from
  return {
    target: of.target,
    inputs,
    outcomes,
    findings: [...findings.values()],
    mostSeconds,
    slowest,
    mostBytes,
    seconds,
  }
}

/** Garbage is in it, so that what an input took counts even where it gave it back. */
function memory(): number {
  const { used_heap_size, external_memory } = getHeapStatistics()
  return used_heap_size + external_memory
}

function describe(thrown: unknown): string {
  if (!(thrown instanceof Error)) return String(thrown)
  const frames = (thrown.stack ?? '').split('\n').filter((line) => line.startsWith('    at '))
  return [`${thrown.name}: ${thrown.message.slice(0, 300)}`, ...frames.slice(0, 5)].join('\n')
}
