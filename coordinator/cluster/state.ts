/**
 * Who is in the cluster. State changes only through `applyEvent`, a pure function of state and event; events are facts,
 * past tense, and bring their own time (monotonic seconds). What the coordinator's links report becomes an event, what
 * planner and HTTP side see is computed from the state.
 */
import { HeadraceError } from '../../shared/errors.ts'
import type { RunId, WorkerId } from '../../shared/ids.ts'
import type { Cost, Role } from '../../shared/protocol/control.ts'
import type { ClusterView, WorkerView } from '../runs/events.ts'
import { type ClockSample, withSample } from '../trace/alignment.ts'

/** What a worker says of itself when it joins. */
export interface WorkerIdentity {
  readonly id: WorkerId
  readonly role: Role
  readonly engine: string
  readonly host: string
  /** Where others fetch its KV. */
  readonly url: string
  readonly cores: number
  readonly memoryBytes: number
}

/** A worker that is connected. */
export interface Worker extends WorkerIdentity {
  readonly state: 'joining' | 'ready' | 'leaving'
  /** A decode node has none. */
  readonly cost?: Cost
  /** Smoothed. */
  readonly rttSeconds?: number
  readonly residentBytes?: number
  /** How its clock stands to this one, by the last pings. */
  readonly clock?: readonly ClockSample[]
  readonly lastSeen: number
  readonly runs: readonly RunId[]
}

/** A worker that vanished: kept for the view alone, until it joins again or is forgotten. */
interface LostWorker extends Omit<Worker, 'state'> {
  readonly state: 'lost'
  readonly reason: string
}

/** A worker that can take part in a prefill. */
export type PrefillWorker = Worker & { readonly cost: Cost }

export interface ClusterState {
  /** In the order of joining; one of each name. */
  readonly workers: readonly Worker[]
  /** In the order of vanishing. */
  readonly lost: readonly LostWorker[]
}

/** Facts. One about a worker that is not (or no longer) connected changes nothing: it was on its way when the worker went. */
export type ClusterEvent =
  | { readonly kind: 'worker_joined'; readonly at: number; readonly worker: WorkerIdentity }
  | { readonly kind: 'worker_calibrated'; readonly at: number; readonly worker: WorkerId; readonly cost?: Cost }
  /** Any message: a sign of life. */
  | { readonly kind: 'worker_heard'; readonly at: number; readonly worker: WorkerId }
  | {
      readonly kind: 'worker_pinged'
      readonly at: number
      readonly worker: WorkerId
      readonly rttSeconds: number
      readonly residentBytes: number
      /** On the worker's own clock. */
      readonly clockSeconds: number
    }
  /** A run took the worker longer, or less long, than its cost had said. */
  | {
      readonly kind: 'worker_measured'
      readonly worker: WorkerId
      readonly predictedSeconds: number
      readonly measuredSeconds: number
    }
  | { readonly kind: 'worker_leaving'; readonly at: number; readonly worker: WorkerId }
  | { readonly kind: 'worker_lost'; readonly worker: WorkerId; readonly reason: string }
  | { readonly kind: 'run_assigned'; readonly worker: WorkerId; readonly run: RunId }
  | { readonly kind: 'run_released'; readonly worker: WorkerId; readonly run: RunId }
  /** Left in good order, or no longer of interest: gone from the view too. */
  | { readonly kind: 'forgotten'; readonly worker: WorkerId }

export const EMPTY_CLUSTER: ClusterState = { workers: [], lost: [] }

/** Lost workers in the view; the one that vanished first is forgotten first. */
const MAX_LOST = 64

/** The weight of a new round trip in the smoothed one, as in TCP (RFC 6298, section 2). */
const RTT_GAIN = 1 / 8

/** How far one run moves a worker's cost, and the most that a single run is believed to be off by. */
const COST_GAIN = 0.5
const MOST_OFF = 4

/** The only way to a new state. Throws `name_taken` if a worker of the same name is connected. */
export function applyEvent(state: ClusterState, event: ClusterEvent): ClusterState {
  switch (event.kind) {
    case 'worker_joined':
      return joined(state, event.worker, event.at)
    case 'worker_calibrated': {
      const measured = event.cost === undefined ? {} : { cost: event.cost }
      return updated(state, event.worker, (worker) => ({
        ...worker,
        ...measured,
        state: worker.state === 'leaving' ? 'leaving' : 'ready',
        lastSeen: event.at,
      }))
    }
    case 'worker_heard':
      return updated(state, event.worker, (worker) => ({ ...worker, lastSeen: event.at }))
    case 'worker_pinged':
      return updated(state, event.worker, (worker) => ({
        ...worker,
        rttSeconds: smoothed(worker.rttSeconds, event.rttSeconds),
        residentBytes: event.residentBytes,
        clock: withSample(worker.clock ?? [], event),
        lastSeen: event.at,
      }))
    case 'worker_measured':
      return updated(state, event.worker, (worker) => corrected(worker, event.measuredSeconds / event.predictedSeconds))
    case 'worker_leaving':
      return updated(state, event.worker, (worker) => ({ ...worker, state: 'leaving', lastSeen: event.at }))
    case 'worker_lost':
      return lost(state, event.worker, event.reason)
    case 'run_assigned':
      return updated(state, event.worker, (worker) => ({ ...worker, runs: [...new Set([...worker.runs, event.run])] }))
    case 'run_released':
      return updated(state, event.worker, (worker) => ({
        ...worker,
        runs: worker.runs.filter((run) => run !== event.run),
      }))
    case 'forgotten':
      return { workers: without(state.workers, event.worker), lost: without(state.lost, event.worker) }
    default:
      return event satisfies never
  }
}

function joined(state: ClusterState, identity: WorkerIdentity, at: number): ClusterState {
  if (findWorker(state, identity.id) !== undefined)
    throw new HeadraceError('name_taken', `a worker named ${identity.id} is connected already`)
  const worker: Worker = { ...identity, state: 'joining', lastSeen: at, runs: [] }
  return { workers: [...state.workers, worker], lost: without(state.lost, identity.id) }
}

function lost(state: ClusterState, id: WorkerId, reason: string): ClusterState {
  const worker = findWorker(state, id)
  if (worker === undefined) return state
  const gone: LostWorker = { ...worker, state: 'lost', runs: [], reason }
  return { workers: without(state.workers, id), lost: [...state.lost, gone].slice(-MAX_LOST) }
}

const updated = (state: ClusterState, id: WorkerId, change: (worker: Worker) => Worker): ClusterState => ({
  ...state,
  workers: state.workers.map((worker) => (worker.id === id ? change(worker) : worker)),
})

const without = <T extends WorkerIdentity>(workers: readonly T[], id: WorkerId): readonly T[] =>
  workers.filter((worker) => worker.id !== id)

/**
 * Moves the fitted cost towards what a real run took: the machine may be busier, hotter or quieter than it was while
 * calibrating. Overhead, linear and attention part are scaled alike, because a run does not tell them apart.
 */
function corrected(worker: Worker, ratio: number): Worker {
  if (worker.cost === undefined || !(ratio > 0)) return worker
  const { o, a, b } = worker.cost
  const scale = 1 + COST_GAIN * (Math.min(Math.max(ratio, 1 / MOST_OFF), MOST_OFF) - 1)
  return { ...worker, cost: { o: o * scale, a: a * scale, b: b * scale } }
}

const smoothed = (old: number | undefined, measured: number): number =>
  old === undefined ? measured : old + RTT_GAIN * (measured - old)

/** The connected worker of this name. */
export const findWorker = (state: ClusterState, id: WorkerId): Worker | undefined =>
  state.workers.find((worker) => worker.id === id)

/** Calibrated, and not about to leave. */
export const readyPrefill = (state: ClusterState): PrefillWorker[] =>
  state.workers.filter(
    (worker): worker is PrefillWorker =>
      worker.role === 'prefill' && worker.state === 'ready' && worker.cost !== undefined,
  )

export const readyDecode = (state: ClusterState): Worker[] =>
  state.workers.filter((worker) => worker.role === 'decode' && worker.state === 'ready')

/** Connected workers that have not been heard of for longer than the limit. */
export const silentWorkers = (state: ClusterState, now: number, limitSeconds: number): WorkerId[] =>
  state.workers.filter((worker) => now - worker.lastSeen > limitSeconds).map((worker) => worker.id)

/** `GET /v1/cluster`: the connected workers, then the lost ones. */
export const toClusterView = (state: ClusterState, now: number, runs: ClusterView['runs']): ClusterView => ({
  workers: [...state.workers, ...state.lost].map((worker) => toWorkerView(worker, now)),
  runs,
})

const toWorkerView = (worker: Worker | LostWorker, now: number): WorkerView => ({
  id: worker.id,
  role: worker.role,
  state: worker.state,
  engine: worker.engine,
  host: worker.host,
  cores: worker.cores,
  memoryBytes: worker.memoryBytes,
  ...(worker.cost === undefined ? {} : { cost: worker.cost }),
  ...(worker.rttSeconds === undefined ? {} : { rttSeconds: worker.rttSeconds }),
  lastSeenSeconds: now - worker.lastSeen,
  runs: worker.runs.length,
})
