import type { Draws } from './random.ts'

/** What is done to the cluster, drawn from a seed. Pure. */

export type Role = 'prefill' | 'decode'

/** The sockets of a worker that a proxy stands before: its port for other workers, and its own link to the coordinator. */
export type Side = 'peer' | 'control'

/** `in`: towards the worker's port, or the coordinator's. */
export type Direction = 'in' | 'out'

export type Fault =
  /** SIGKILL; started again after `seconds`. */
  | { readonly kind: 'kill'; readonly target: string; readonly seconds: number }
  /** SIGSTOP, and SIGCONT after `seconds`. */
  | { readonly kind: 'freeze'; readonly target: string; readonly seconds: number }
  /** Every connection is reset. */
  | { readonly kind: 'cut'; readonly target: string; readonly side: Side; readonly seconds: 0 }
  /** Nothing passes in one direction for `seconds`. */
  | {
      readonly kind: 'stall'
      readonly target: string
      readonly side: Side
      readonly direction: Direction
      readonly seconds: number
    }
  /** One bit of what passes next is another. */
  | {
      readonly kind: 'flip'
      readonly target: string
      readonly side: Side
      readonly direction: Direction
      readonly seconds: 0
    }

/** A worker as the storm sees it. */
export interface Target {
  readonly name: string
  readonly role: Role
  /** Ready, and nothing that lasts is being done to it. */
  readonly sound: boolean
}

/** What it is called in the report. */
export const faultName = (fault: Fault, role: Role): string =>
  'side' in fault ? `${fault.kind} ${fault.side} link, ${role}` : `${fault.kind} ${role}`

export const FAULT_NAMES: readonly string[] = (['prefill', 'decode'] as const).flatMap((role) => [
  `kill ${role}`,
  `freeze ${role}`,
  ...(['cut', 'stall', 'flip'] as const).flatMap((kind) => [
    `${kind} peer link, ${role}`,
    `${kind} control link, ${role}`,
  ]),
])

const KINDS = ['kill', 'freeze', 'cut', 'stall', 'flip'] as const
/** How long it lasts: a killed worker is started again after that. */
const SECONDS: Record<Fault['kind'], readonly [number, number]> = {
  kill: [0.3, 5],
  freeze: [0.5, 20],
  cut: [1, 1],
  stall: [0.2, 8],
  flip: [1, 1],
}

/**
 * The next fault, or nothing if its draw would leave less than half of a role's workers: what is tested is that a
 * cluster that can still work does, not that one without workers does not.
 */
export function drawFault(draws: Draws, targets: readonly Target[]): Fault | undefined {
  const kind = draws.oneOf(KINDS)
  // Every role has the same part in the faults, however many workers it has.
  const role = draws.oneOf(['prefill', 'decode'] as const)
  const ofRole = targets.filter((target) => target.role === role)
  const { name: target, sound } = draws.oneOf(ofRole)
  const side = draws.oneOf(['peer', 'control'] as const)
  const direction = draws.oneOf(['in', 'out'] as const)
  const seconds = draws.spread(...SECONDS[kind])
  if (kind === 'cut') return { kind, target, side, seconds: 0 }
  if (kind === 'flip') return { kind, target, side, direction, seconds: 0 }
  const left = ofRole.filter((other) => other.sound && other.name !== target).length
  if (!sound || left < ofRole.length / 2) return undefined
  if (kind === 'kill' || kind === 'freeze') return { kind, target, seconds }
  return { kind, target, side, direction, seconds }
}
