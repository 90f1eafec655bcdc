import { setTimeout as sleep } from 'node:timers/promises'
import { now } from './client.ts'
import type { ChaosCluster } from './cluster.ts'
import { Deadline } from './deadline.ts'
import { drawFault, type Fault, faultName, type Target } from './faults.ts'
import type { Member } from './member.ts'
import type { Draws } from './random.ts'

/** A fault that was done. */
export interface Done {
  readonly name: string
  readonly fault: Fault
  readonly from: number
  /** When it was over; a killed worker's, when it took runs again. */
  readonly to: number
}

/** A bit can be changed only in bytes that pass. */
const FLIP_SECONDS = 5

/** Does one fault after the other to a cluster, several at a time, each until it is over by itself. */
export class Storm {
  readonly done: Done[] = []
  readonly #cluster: ChaosCluster
  readonly #draws: Draws
  readonly #note: (done: Done) => void
  /** Members that something lasting is being done to. */
  readonly #suffering = new Set<string>()
  readonly #pending = new Set<Promise<void>>()

  constructor(cluster: ChaosCluster, draws: Draws, note: (done: Done) => void) {
    this.#cluster = cluster
    this.#draws = draws
    this.#note = note
  }

  /** Faults at random moments, `meanGap` seconds apart on average, until `enough`; then waits for the last to be over. */
  async rage(meanGap: number, enough: AbortSignal, signal: AbortSignal): Promise<void> {
    while (!enough.aborted) {
      const gap = -Math.log(1 - this.#draws.fraction()) * meanGap
      await sleep(Math.min(gap, 5 * meanGap) * 1000, undefined, { signal: enough }).catch(() => undefined)
      if (enough.aborted) break
      const fault = drawFault(this.#draws, await this.#targets())
      if (fault === undefined) continue
      const pending = this.#inflict(fault, signal).finally(() => this.#pending.delete(pending))
      this.#pending.add(pending)
    }
    await Promise.all(this.#pending)
  }

  async #targets(): Promise<Target[]> {
    const ready = await this.#cluster.ready()
    return this.#cluster.members.map(({ name, role }) => ({
      name,
      role,
      sound: ready.has(name) && !this.#suffering.has(name),
    }))
  }

  async #inflict(fault: Fault, signal: AbortSignal): Promise<void> {
    const member = this.#cluster.members.find(({ name }) => name === fault.target)!
    const from = now()
    const lasts = fault.kind !== 'cut' && fault.kind !== 'flip'
    if (lasts) this.#suffering.add(fault.target)
    const happened = await this.#carryOut(fault, member, signal)
    if (lasts) this.#suffering.delete(fault.target)
    if (!happened) return
    const done = { name: faultName(fault, member.role), fault, from, to: now() }
    this.done.push(done)
    this.#note(done)
  }

  /** Resolves when it is over, with whether anything has happened at all. */
  async #carryOut(fault: Fault, member: Member, signal: AbortSignal): Promise<boolean> {
    const wait = (): Promise<void> => sleep(fault.seconds * 1000, undefined, { signal }).catch(() => undefined)
    switch (fault.kind) {
      case 'kill':
        await member.kill()
        await wait()
        member.start()
        return this.#cluster.until(async () => (await this.#cluster.ready()).has(member.name), 60, signal)
      case 'freeze':
        member.freeze()
        await wait()
        member.thaw()
        return true
      case 'cut': {
        const proxy = member[fault.side]
        const some = proxy.connections > 0
        proxy.cut()
        return some
      }
      case 'stall':
        member[fault.side].stall(fault.direction)
        await wait()
        member[fault.side].resume(fault.direction)
        return true
      case 'flip': {
        const late = new Deadline(FLIP_SECONDS, signal)
        const [where, bit] = [this.#draws.fraction(), this.#draws.below(8)]
        const damage = (piece: Buffer): Buffer => flipped(piece, where, bit)
        return member[fault.side].damageNext(fault.direction, damage, late.signal).finally(() => late.clear())
      }
    }
  }
}

function flipped(piece: Buffer, where: number, bit: number): Buffer {
  const copy = Buffer.from(piece)
  const at = Math.floor(where * copy.length)
  copy[at] = copy[at]! ^ (1 << bit)
  return copy
}
