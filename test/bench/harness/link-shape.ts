import { HeadraceError } from '../../../shared/errors.ts'

/** What the network between simulated hosts is like. Pure. */
export interface LinkShape {
  readonly name: string
  /** Of each host, in each direction. Absent: as fast as it goes. */
  readonly bitsPerSecond?: number
  /** From one host to another, one way; there and back it is twice that. */
  readonly delaySeconds?: number
}

/** `10g`, `1g+20ms`, `100m`, `20ms`, `free` (shaped in no way). Throws `bad_config`. */
export function parseLinkShape(text: string): LinkShape {
  if (text === 'free') return { name: text }
  const found = /^(?:(\d+(?:\.\d+)?)([gm]))?\+?(?:(\d+(?:\.\d+)?)ms)?$/.exec(text)
  const [, rate, unit, delay] = found ?? []
  if (rate === undefined && delay === undefined)
    throw new HeadraceError('bad_config', `a link is written as 10g, 100m, 20ms, 1g+20ms or free, not ${text}`)
  return {
    name: text,
    ...(rate !== undefined && { bitsPerSecond: Number(rate) * (unit === 'g' ? 1e9 : 1e6) }),
    ...(delay !== undefined && { delaySeconds: Number(delay) / 1000 }),
  }
}

export function linkText({ bitsPerSecond: bits, delaySeconds }: LinkShape): string {
  const rate = bits === undefined ? 'unshaped' : bits >= 1e9 ? `${bits / 1e9} Gbit/s` : `${bits / 1e6} Mbit/s`
  return delaySeconds === undefined ? rate : `${rate}, ${delaySeconds * 1000} ms one way`
}

/**
 * The kernel's token bucket. What may pass at once is a millisecond's worth, and no less than a large packet; what waits
 * is at most 50 ms' worth, beyond which TCP sees a loss and slows down, as on a switch.
 */
export const bucketArguments = (bitsPerSecond: number): string[] => [
  'tbf',
  'rate',
  `${bitsPerSecond}bit`,
  'burst',
  String(Math.max(16 * 1024, Math.round(bitsPerSecond / 8 / 1000))),
  'latency',
  '50ms',
]
