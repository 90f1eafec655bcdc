import type { Asked } from './ask.ts'
import type { Load } from './cluster.ts'
import { sum } from './statistics.ts'

/**
 * Where the time to the first token went. The worker that ended last decides it; the parts add up to the whole:
 * arithmetic on its core, its core given to others meanwhile, standing still for want of a block, and all that lies
 * before and after its layers.
 */
export interface Account {
  readonly worker: string
  readonly ttftSeconds: number
  readonly arithmeticSeconds: number
  /** The socket thread and the garbage collector of the same process, the decode node, programs of other people. */
  readonly displacedSeconds: number
  readonly waitSeconds: number
  /** Tokenizer, planning, assignments; the rest of the hand-off, the last token, the way back. */
  readonly outsideSeconds: number
  /** Arithmetic of all workers together: more than solo's is what splitting itself costs. */
  readonly allArithmeticSeconds: number
  /** The busiest worker's arithmetic over an even share: 1 is a perfect split. */
  readonly imbalance: number
  /** CPU time of the processes that compute no prefill: coordinator and decode node. */
  readonly helperSeconds: number
}

export function accountOf(asked: Asked, load: Load): Account {
  const workers = asked.prefill.workers.map(({ id, compute_seconds, wait_seconds }) => ({
    id,
    compute: compute_seconds ?? 0,
    wait: wait_seconds ?? 0,
    arithmetic: load.cpu[id]?.busiest.seconds ?? 0,
  }))
  const last = workers.reduce((latest, one) => (one.compute + one.wait > latest.compute + latest.wait ? one : latest))
  const all = sum(workers.map(({ arithmetic }) => arithmetic))
  const helpers = Object.entries(load.cpu).filter(([name]) => !name.startsWith('worker-'))
  return {
    worker: last.id,
    ttftSeconds: asked.ttftSeconds,
    arithmeticSeconds: last.arithmetic,
    displacedSeconds: last.compute - last.arithmetic,
    waitSeconds: last.wait,
    outsideSeconds: asked.ttftSeconds - last.compute - last.wait,
    allArithmeticSeconds: all,
    imbalance: Math.max(...workers.map(({ arithmetic }) => arithmetic)) / (all / workers.length),
    helperSeconds: sum(helpers.map(([, { all: cpu }]) => cpu.seconds)),
  }
}
