/**
 * Who is in the cluster. State changes only through `applyEvent`, a pure function of state and event; events are facts,
 * past tense, and bring their own time (monotonic seconds). What the coordinator's links report becomes an event, what
 * planner and HTTP side see is computed from the state.
 */
import { HeadraceError } from '../../shared/errors.ts'
import type { RunId, WorkerId } from '../../shared/ids.ts'
import type { PieceSet } from '../../shared/model-store/piece-set.ts'
import type { Precision } from '../../shared/precision.ts'
import type { Cost, Role } from '../../shared/protocol/control.ts'
import { slowedCost } from '../planning/cost.ts'
import { type ClockSample, withSample } from '../trace/alignment.ts'
import { BESIDE_OTHERS, besideOthers, correctedCost, leastOf, type Measured } from './cost-correction.ts'
import { dropLinks, type LinkName, type Links, linkAsked, linkMeasured, NO_LINKS } from './links.ts'

/** What a worker says of itself before it has its model, and after. */
export interface WorkerPlace {
  readonly id: WorkerId
  readonly role: Role
  readonly engine: string
  readonly host: string
  /** Where others fetch its KV. */
  readonly url: string
  readonly cores: number
  /** Threads of its engine. */
  readonly threads: number
  readonly memoryBytes: number
  /** Most memory that its runs may take together. */
  readonly budgetBytes: number
}

export interface WorkerIdentity extends WorkerPlace {
  /** What its numbers are true to. */
  readonly precision: Precision
}

/** A worker whose model is on its way: it joins when that is there. */
export interface FetchingWorker extends WorkerPlace {
  readonly have: PieceSet
  readonly lastSeen: number
}

/** A worker that is connected. */
export interface Worker extends WorkerIdentity {
  /** `quarantined`: its KV was not what it should be, so it gets no runs. */
  readonly state: 'joining' | 'ready' | 'leaving' | 'quarantined'
  /** Alone on its host: calibrated, then corrected by runs. */
  readonly cost?: Cost
  /** While other workers of its host take part in the run; absent until such a run was measured. */
  readonly sharedCost?: Cost
  /** Runs that have corrected any cost, and those after the first that have corrected either. */
  readonly seen: { readonly all: number; readonly alone: number; readonly shared: number }
  /** Smoothed. */
  readonly rttSeconds?: number
  readonly residentBytes?: number
  /** How its clock stands to this one, by the last pings. */
  readonly clock?: readonly ClockSample[]
  readonly lastSeen: number
  readonly runs: readonly RunId[]
  /** Bytes of KV that these runs will take here, where that is known. */
  readonly reserved: ReadonlyMap<RunId, number>
  /** Names of KV that has outlived its run here. */
  readonly kept: readonly string[]
}

/** A worker that vanished: kept for the view alone, until it joins again or is forgotten. */
export interface LostWorker extends Omit<Worker, 'state'> {
  readonly state: 'lost'
  readonly reason: string
}

/** A worker that can take part in a prefill. */
export type PrefillWorker = Worker & { readonly cost: Cost }

export interface ClusterState extends Links {
  /** In the order of joining; one of each name. */
  readonly workers: readonly Worker[]
  /** In the order of vanishing. */
  readonly lost: readonly LostWorker[]
  /** One at each address. */
  readonly fetching: readonly FetchingWorker[]
  /** Names that take no part, also when they join again, until the coordinator is started anew. */
  readonly quarantined: readonly WorkerId[]
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
  /** What a run took the worker; `shared`: other workers of its host took part too. */
  | {
      readonly kind: 'worker_measured'
      readonly worker: WorkerId
      readonly shared: boolean
      readonly measured: Measured
    }
  /** A self-check has found that it lies or computes wrongly. */
  | { readonly kind: 'worker_quarantined'; readonly worker: WorkerId }
  /** All KV that has outlived its run there, by name. */
  | { readonly kind: 'kv_kept'; readonly worker: WorkerId; readonly names: readonly string[] }
  | { readonly kind: 'worker_leaving'; readonly at: number; readonly worker: WorkerId }
  | { readonly kind: 'worker_lost'; readonly worker: WorkerId; readonly reason: string }
  | { readonly kind: 'run_assigned'; readonly worker: WorkerId; readonly run: RunId; readonly kvBytes?: number }
  | { readonly kind: 'run_released'; readonly worker: WorkerId; readonly run: RunId }
  /** `to` was asked to measure how fast `from` can send to it. */
  | { readonly kind: 'link_asked'; readonly at: number; readonly link: LinkName }
  | {
      readonly kind: 'link_measured'
      readonly at: number
      readonly link: LinkName
      readonly rttSeconds: number
      readonly bytesPerSecond: number
    }
  | { readonly kind: 'model_fetching'; readonly worker: FetchingWorker }
  /** It has the model, or has gone. */
  | { readonly kind: 'fetch_ended'; readonly url: string }
  /** Left in good order, or no longer of interest: gone from the view too. */
  | { readonly kind: 'forgotten'; readonly worker: WorkerId }

export const EMPTY_CLUSTER: ClusterState = { workers: [], lost: [], fetching: [], quarantined: [], ...NO_LINKS }

/** Lost workers in the view; the one that vanished first is forgotten first. */
const MAX_LOST = 64

/** Names in quarantine; the one that came first is let go first. */
const MAX_QUARANTINED = 1024

/** The weight of a new round trip in the smoothed one, as in TCP (RFC 6298, section 2). */
const RTT_GAIN = 1 / 8

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
        state: worker.state === 'joining' ? calibratedState(state, worker.id) : worker.state,
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
      return updated(state, event.worker, (worker) => corrected(worker, event.shared, event.measured))
    case 'worker_quarantined':
      return quarantined(state, event.worker)
    case 'kv_kept':
      return updated(state, event.worker, (worker) => ({ ...worker, kept: event.names }))
    case 'worker_leaving':
      return updated(state, event.worker, (worker) => ({ ...worker, state: 'leaving', lastSeen: event.at }))
    case 'worker_lost':
      return lost(state, event.worker, event.reason)
    case 'run_assigned':
      return updated(state, event.worker, (worker) => assigned(worker, event.run, event.kvBytes))
    case 'run_released':
      return updated(state, event.worker, (worker) => released(worker, event.run))
    case 'link_asked':
      return withLink(state, event.link, () => linkAsked(state, event.link, event.at))
    case 'link_measured':
      return withLink(state, event.link, (sameHost) => linkMeasured(state, event.link, event, sameHost))
    case 'model_fetching':
      return { ...state, fetching: [...otherFetching(state, event.worker.url), event.worker] }
    case 'fetch_ended':
      return { ...state, fetching: otherFetching(state, event.url) }
    case 'forgotten': {
      const workers = without(state.workers, event.worker)
      return { ...state, workers, lost: without(state.lost, event.worker), ...dropLinks(state, event.worker) }
    }
    default:
      return event satisfies never
  }
}

function joined(state: ClusterState, identity: WorkerIdentity, at: number): ClusterState {
  if (findWorker(state, identity.id) !== undefined)
    throw new HeadraceError('name_taken', `a worker named ${identity.id} is connected already`)
  const nothing = { runs: [], reserved: new Map(), kept: [], seen: { all: 0, alone: 0, shared: 0 } }
  const worker: Worker = { ...identity, state: 'joining', lastSeen: at, ...nothing }
  return { ...state, workers: [...state.workers, worker], lost: without(state.lost, identity.id) }
}

function lost(state: ClusterState, id: WorkerId, reason: string): ClusterState {
  const worker = findWorker(state, id)
  if (worker === undefined) return state
  const gone: LostWorker = { ...worker, state: 'lost', runs: [], reserved: new Map(), reason }
  const workers = without(state.workers, id)
  return { ...state, workers, lost: [...state.lost, gone].slice(-MAX_LOST), ...dropLinks(state, id) }
}

const calibratedState = ({ quarantined }: ClusterState, id: WorkerId): Worker['state'] =>
  quarantined.includes(id) ? 'quarantined' : 'ready'

/** Also of a worker that has gone meanwhile: it must not come back as if nothing had been. */
function quarantined(state: ClusterState, id: WorkerId): ClusterState {
  const names = [...state.quarantined.filter((other) => other !== id), id].slice(-MAX_QUARANTINED)
  const held = (worker: Worker): Worker => (worker.state === 'ready' ? { ...worker, state: 'quarantined' } : worker)
  return { ...updated(state, id, held), quarantined: names }
}

const otherFetching = ({ fetching }: ClusterState, url: string): readonly FetchingWorker[] =>
  fetching.filter((worker) => worker.url !== url)

const updated = (state: ClusterState, id: WorkerId, change: (worker: Worker) => Worker): ClusterState => ({
  ...state,
  workers: state.workers.map((worker) => (worker.id === id ? change(worker) : worker)),
})

const without = <T extends WorkerIdentity>(workers: readonly T[], id: WorkerId): readonly T[] =>
  workers.filter((worker) => worker.id !== id)

function assigned(worker: Worker, run: RunId, kvBytes: number | undefined): Worker {
  const runs = [...new Set([...worker.runs, run])]
  return kvBytes === undefined
    ? { ...worker, runs }
    : { ...worker, runs, reserved: new Map([...worker.reserved, [run, kvBytes]]) }
}

const released = (worker: Worker, run: RunId): Worker => ({
  ...worker,
  runs: worker.runs.filter((other) => other !== run),
  reserved: new Map([...worker.reserved].filter(([other]) => other !== run)),
})

/**
 * A run beside others of the host corrects one cost, a run alone the other. The first of either kind tells something of
 * the other kind too, as long as no run has told it better: so until then, nobody is slower alone than beside others.
 */
function corrected(worker: Worker, shared: boolean, measured: Measured): Worker {
  const { cost, sharedCost, seen } = worker
  if (cost === undefined) return worker
  const kind = shared ? 'shared' : 'alone'
  const cold = seen.all === 0
  const now = { ...seen, all: seen.all + 1, [kind]: seen[kind] + (cold ? 0 : 1) }
  const corrected = correctedCost(shared ? (sharedCost ?? besideOthers(cost)) : cost, measured, seen[kind], cold)
  if (!shared) return { ...worker, cost: corrected, seen: now }
  const alone = cold ? slowedCost(corrected, 1 / BESIDE_OTHERS) : seen.alone === 0 ? leastOf(cost, corrected) : cost
  return { ...worker, cost: alone, sharedCost: corrected, seen: now }
}

/** Of workers that are both connected. */
function withLink(state: ClusterState, { from, to }: LinkName, change: (sameHost: boolean) => Links): ClusterState {
  const [sender, receiver] = [findWorker(state, from), findWorker(state, to)]
  if (sender === undefined || receiver === undefined) return state
  return { ...state, ...change(sender.host === receiver.host) }
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

/** The same cluster if no run were on its way. */
export const idle = (state: ClusterState): ClusterState => ({
  ...state,
  workers: state.workers.map((worker) => ({ ...worker, runs: [], reserved: new Map() })),
})

/** Connected workers that have not been heard of for longer than the limit. */
export const silentWorkers = (state: ClusterState, now: number, limitSeconds: number): WorkerId[] =>
  state.workers.filter((worker) => now - worker.lastSeen > limitSeconds).map((worker) => worker.id)
