import { HeadraceError } from '../../../shared/errors.ts'

/** Which simulated host runs on which core, and how much of it. Pure. */

export interface Place {
  readonly core: number
  /** Of that core's time; 1 is a core of its own. */
  readonly share: number
}

/** Of all cores' time, what hosts may use when they must share: the rest is for coordinator, decode node and kernel. */
const USABLE = 0.8

/** `0-1,4`, as the kernel writes it, to `[0, 1, 4]`. */
export function parseCores(list: string): number[] {
  return list.split(',').flatMap((range) => {
    const [first, last = first] = range.split('-').map(Number)
    return Array.from({ length: last! - first! + 1 }, (_, i) => first! + i)
  })
}

/**
 * Hosts of these speeds, in shares of a core: each on the core with the most room left, fastest first. With too few
 * cores all are slowed by one factor, so that their proportions stay and what a host computes never depends on what
 * another does at that moment. Throws `bad_config` where a speed is not above 0 and at most 1.
 */
export function placeHosts(speeds: readonly number[], cores: readonly number[]): Place[] {
  if (speeds.some((speed) => !(speed > 0 && speed <= 1)))
    throw new HeadraceError('bad_config', `speeds are shares of a core, above 0 and up to 1, not ${speeds}`)
  const fits = (factor: number): number[] | undefined => packed(speeds, cores.length, factor)
  const factor = FACTORS.find((candidate) => fits(candidate) !== undefined)
  if (factor === undefined)
    throw new HeadraceError('bad_config', `${speeds.length} hosts are too many for ${cores.length} cores`)
  return fits(factor)!.map((bin, i) => ({ core: cores[bin]!, share: speeds[i]! * factor }))
}

export function placesText(places: readonly Place[], decode?: Place): string {
  const whole = [...places, ...(decode === undefined ? [] : [decode])].every(({ share }) => share >= 1)
  if (whole) return `${places.length} workers${decode === undefined ? '' : ' and a decode node'} of one core each`
  const text = ({ core, share }: Place): string => `${(share * 100).toFixed(0)} % of core ${core}`
  const rest = decode === undefined ? '' : `, the decode node ${text(decode)}`
  return `workers have ${places.map(text).join(', ')}${rest} (CPU quotas)`
}

/** Alike hosts, and one more for the decode node: it computes too, and must not take that from any of them. */
export function placeCluster(workers: number, cores: readonly number[]): { workers: Place[]; decode: Place } {
  const all = placeHosts(new Array<number>(workers + 1).fill(1), cores)
  return { workers: all.slice(0, -1), decode: all.at(-1)! }
}

/** Round shares are easier to report: a core each, or else 80 % of it and downwards in steps of 2 %. */
const FACTORS = [1, ...Array.from({ length: 40 }, (_, i) => USABLE - i * 0.02)]

/** The bin of each host, or nothing where they do not fit. Hosts with a core of their own fill it; shared cores keep a rest. */
function packed(speeds: readonly number[], bins: number, factor: number): number[] | undefined {
  const filled = new Array<number>(bins).fill(0)
  const bin = new Array<number>(speeds.length).fill(0)
  for (const i of speeds.map((_, index) => index).sort((x, y) => speeds[y]! - speeds[x]!)) {
    const emptiest = filled.indexOf(Math.min(...filled))
    const share = speeds[i]! * factor
    const alone = filled[emptiest] === 0
    if (filled[emptiest]! + share > (alone ? 1 : USABLE) + 1e-9) return undefined
    filled[emptiest]! += share
    bin[i] = emptiest
  }
  return bin
}
