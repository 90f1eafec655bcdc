import { Chance } from './chance.ts'

/** What can go wrong, and in one simulation does. A list of facts, so that any of them can be left out. */
export const FAULT_KINDS = [
  'kill',
  'freeze',
  'slow',
  'cut_control',
  'cut_peer',
  'stall',
  'flip',
  'repeat',
  'delay',
  'refuse',
  'slow_link',
  'restart_coordinator',
  'stop_coordinator',
  'join',
  'leave',
  'flip_header',
  'lie',
  'two_faced',
  'duplicate',
] as const
export type FaultKind = (typeof FAULT_KINDS)[number]

export interface Fault {
  readonly kind: FaultKind
  readonly at: number
  /** Instead: when so many events of this kind have come to clients, and on the workers of that run. */
  readonly aim?: Aim
  /** Until it heals; a killed process is started again after this long. */
  readonly seconds: number
  /** Names of workers: of the one that it hits, and of the other end of a link. */
  readonly worker: string
  readonly other: string
  /** How bad: times slower, bits flipped; of a lie, where. */
  readonly strength: number
}

export interface Aim {
  readonly event: 'planned' | 'progress' | 'token'
  readonly count: number
  /** Seconds after it. */
  readonly late: number
  /** Places among the workers of the plan, the decode node last, in [0, 1). */
  readonly worker: number
  readonly other: number
}

/** Only self-checks find these. */
const LIES: ReadonlySet<FaultKind> = new Set(['lie', 'two_faced'])

/** Each kind is off in half of the simulations, and where it is on, how often it strikes differs. */
export function drawFaults(
  seed: number,
  workers: readonly { readonly name: string; readonly role: 'prefill' | 'decode' }[],
  until: number,
  selfCheck: boolean,
): readonly Fault[] {
  const chance = new Chance(seed, 'faults')
  if (chance.hits(0.1)) return []
  const faults: Fault[] = []
  const names = workers.map(({ name }) => name)
  const prefill = workers.filter(({ role }) => role === 'prefill').map(({ name }) => name)
  for (const kind of FAULT_KINDS) {
    const off = chance.hits(0.5)
    const times = chance.whole(1, chance.pick([1, 2, 4]))
    if (off || (LIES.has(kind) && !selfCheck)) continue
    for (let time = 0; time < times; time++) {
      if (LIES.has(kind)) {
        faults.push(drawLie(chance, kind, chance.pick(prefill), until))
        continue
      }
      const worker = chance.pick(names)
      const others = names.filter((name) => name !== worker)
      faults.push({
        kind,
        at: chance.between(0.6, until - 0.3),
        ...(chance.hits(0.6) && { aim: drawAim(chance) }),
        // Long enough to be given up, short enough to come back while the run goes on.
        seconds: kind === 'freeze' ? chance.spread(0.5, 6) : chance.spread(0.05, 20),
        worker,
        other: chance.hits(0.2) ? 'coordinator' : chance.pick(others),
        strength: chance.spread(1, 100),
      })
    }
  }
  return faults.sort((a, b) => a.at - b.at)
}

/** Early and for long: a liar has to be in a plan to be heard. */
const drawLie = (chance: Chance, kind: FaultKind, worker: string, until: number): Fault => ({
  kind,
  at: chance.between(0.3, until / 2),
  seconds: chance.spread(1, 20),
  worker,
  other: worker,
  strength: chance.spread(1, 100),
})

const drawAim = (chance: Chance): Aim => ({
  event: chance.pick(['planned', 'progress', 'progress', 'token'] as const),
  count: Math.floor(chance.spread(1, 30)),
  late: chance.hits(0.5) ? 0 : chance.spread(1e-4, 0.3),
  worker: chance.next(),
  other: chance.next(),
})
