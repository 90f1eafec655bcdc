import { type ChildProcess, fork } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { temporaryFolder } from '../support/temporary.ts'
import { Dice } from './dice.ts'
import { Position } from './position.ts'
import type { Finding, Stretch, Swept } from './sweep.ts'
import { sharesOf, targetOf } from './targets.ts'

export interface FuzzOptions {
  readonly inputs: number
  readonly seed: number
  /** Absent: all of them. */
  readonly target?: string | undefined
  /** At the same time. */
  readonly processes: number
  readonly signal?: AbortSignal
  readonly note?: (text: string) => void
}

/** An input that keeps a process busy for longer than this hangs it. */
const HANG_SECONDS = 60
/** More must not be needed for any input, and a process that takes it is ended by V8. */
const HEAP_MIB = 512
const CHILD = join(import.meta.dirname, '..', 'bench', 'children', 'fuzz-child.js')

/** Sends inputs of a seed to every target, each in a process of its own, so that one that ends it is seen and named. */
export async function fuzz(of: FuzzOptions): Promise<Swept[]> {
  const { seed, inputs, target } = of
  const shares = target === undefined ? sharesOf(inputs) : [{ target: targetOf(target).name, count: inputs }]
  const stretches = shares.map((share) => ({ seed, target: share.target, from: 0, to: share.count }))
  const swept: Swept[] = []
  const waiting = stretches.values()
  const work = async (): Promise<void> => {
    for (const stretch of waiting) {
      const found = await sweepSafely(stretch, of.signal)
      swept.push(found)
      of.note?.(`${found.target}: ${found.inputs} inputs, ${found.findings.length} findings`)
    }
  }
  await Promise.all(Array.from({ length: of.processes }, work))
  return swept.sort((a, b) => order(shares, a) - order(shares, b))
}

const order = (shares: readonly { target: string }[], { target }: Swept): number =>
  shares.findIndex((share) => share.target === target)

/** A stretch to its end: what aborts or hangs the process is a finding, and the inputs behind it get a process anew. */
async function sweepSafely(of: Stretch, signal: AbortSignal | undefined): Promise<Swept> {
  const parts: Swept[] = []
  for (let from = of.from; from < of.to && !signal?.aborted; ) {
    const result = await sweepOnce({ ...of, from }, signal)
    if ('swept' in result) parts.push(result.swept)
    else parts.push(lost(of.target, from, result.finding))
    from = 'swept' in result ? of.to : result.finding.index + 1
  }
  return together(of.target, parts)
}

type Result = { readonly swept: Swept } | { readonly finding: Finding }

async function sweepOnce(of: Stretch, signal: AbortSignal | undefined): Promise<Result> {
  await using folder = await temporaryFolder()
  const path = join(folder.path, 'position')
  await writeFile(path, '')
  const child = fork(CHILD, [path], {
    execArgv: [`--max-old-space-size=${HEAP_MIB}`],
    stdio: ['ignore', 2, 'pipe', 'ipc'],
  })
  let swept: Swept | undefined
  let complaint = ''
  child.once('message', (message) => {
    swept = message as Swept
  })
  child.stderr!.on('data', (piece: Buffer) => {
    complaint = (complaint + String(piece)).slice(-4000)
  })
  child.send(of)
  const stop = (): void => void child.kill('SIGKILL')
  signal?.addEventListener('abort', stop, { once: true })
  const ended = await watched(child, path)
  signal?.removeEventListener('abort', stop)
  if (swept !== undefined) return { swept }
  const index = Position.read(path) ?? of.from
  const bytes = targetOf(of.target)
    .open()
    .then(async ({ input, close }) => {
      const made = input(Dice.of(of.seed, of.target, index))
      await close?.()
      return made
    })
  const { target, seed } = of
  return {
    finding: { target, seed, index, hex: Buffer.from(await bytes).toString('hex'), what: `${ended}\n${complaint}` },
  }
}

/** How the process ended; one that stays at an input for too long is killed. */
function watched(child: ChildProcess, path: string): Promise<string> {
  let [last, since] = [-1, performance.now()]
  let why = 'the process ended'
  const timer = setInterval(() => {
    const index = Position.read(path) ?? -1
    if (index !== last) [last, since] = [index, performance.now()]
    if (performance.now() - since < HANG_SECONDS * 1000) return
    why = `no end within ${HANG_SECONDS} s`
    child.kill('SIGKILL')
  }, 500)
  return new Promise((resolve) => {
    child.once('close', (code, signal) => {
      clearInterval(timer)
      resolve(`${why} (${signal ?? code})`)
    })
  })
}

/** What a process had read that cannot tell any more. */
function lost(target: string, from: number, finding: Finding): Swept {
  const inputs = finding.index + 1 - from
  return { target, inputs, outcomes: {}, findings: [finding], mostSeconds: 0, slowest: from, mostBytes: 0, seconds: 0 }
}

function together(target: string, parts: readonly Swept[]): Swept {
  const outcomes: Record<string, number> = {}
  for (const part of parts)
    for (const [answer, times] of Object.entries(part.outcomes)) outcomes[answer] = (outcomes[answer] ?? 0) + times
  const sum = (of: (part: Swept) => number): number => parts.reduce((total, part) => total + of(part), 0)
  const [slowest] = [...parts].sort((a, b) => b.mostSeconds - a.mostSeconds)
  return {
    target,
    inputs: sum(({ inputs }) => inputs),
    outcomes,
    findings: parts.flatMap(({ findings }) => findings),
    mostSeconds: slowest?.mostSeconds ?? 0,
    slowest: slowest?.slowest ?? 0,
    mostBytes: Math.max(0, ...parts.map(({ mostBytes }) => mostBytes)),
    seconds: sum(({ seconds }) => seconds),
  }
}
