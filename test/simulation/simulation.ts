import type { Plan } from '../../shared/plan.ts'
import { Chance } from './chance.ts'
import { Client, type Ending } from './client.ts'
import type { Aim, Fault } from './faults.ts'
import type { ClientOptions, Options } from './options.ts'
import { COORDINATOR, type Planted, type WorkerLife, World } from './world.ts'

/** All that is left must be done in so much virtual time after the cluster has healed. */
const PATIENCE_SECONDS = 300
/** What ends late (timers, links that close) may do so before nothing must be left. */
const QUIET_SECONDS = 1.5
/** So long two processes may contend for a name. */
const DOUBLES_SECONDS = 60
const MOST_EVENTS = 2_000_000
/** Looking at everything takes longer than most events. */
const LOOK_EVERY = 256

export interface Outcome {
  readonly options: Options
  readonly violations: readonly string[]
  /** Of the events, in order. */
  readonly hash: string
  readonly events: number
  readonly virtualSeconds: number
  readonly faults: ReadonlyMap<string, number>
  readonly seen: ReadonlyMap<string, number>
  readonly endings: readonly Ending[]
  readonly tail: (lines: number) => string[]
}

/** Must be called from a turn of the event loop, not from a promise. */
export function simulate(options: Options, planted?: Planted, explained?: boolean): Outcome {
  return new Simulation(options, planted, explained).run()
}

class Simulation {
  readonly #world: World
  readonly #chance: Chance
  readonly #clients: Client[]
  readonly #injected = new Map<string, number>()
  readonly #aimed: ((event: Aim['event'], plan: Plan) => void)[] = []
  #checks = 0

  constructor(options: Options, planted?: Planted, explained?: boolean) {
    this.#world = new World(options, planted, explained)
    this.#chance = new Chance(options.seed, 'simulation')
    this.#clients = options.clients.map((client, i) => new Client(this.#world, `client-${i + 1}`, client))
  }

  run(): Outcome {
    const world = this.#world
    const { timeline, options } = world
    world.startCoordinator()
    for (const worker of options.workers)
      timeline.after(worker.startAt, () => {
        if (!world.workers.has(worker.name)) world.startWorker(worker)
      })
    for (const fault of options.faults)
      if (fault.aim === undefined) timeline.after(fault.at, () => this.#inject(fault))
      else this.#aim(fault, fault.aim)
    world.onEvent = (event, plan) => {
      for (const tell of this.#aimed) tell(event, plan)
    }
    this.#advance(options.healAt, () => this.#clients.every(({ waiting }) => !waiting))
    this.#heal()
    const deadline = options.healAt + PATIENCE_SECONDS
    this.#advance(deadline, () => this.#clients.every(({ waiting }) => !waiting))
    this.#tryAgain(deadline)
    if (world.violations.length === 0)
      for (const { waiting, name } of this.#clients) if (waiting) world.violated(`${name} waits for ever`)
    const names = [...world.doubles.keys()]
    const alone = (): boolean =>
      names.every((name) => world.livesOf(name).filter((life) => this.#hears(life)).length <= 1)
    this.#advance(timeline.now + DOUBLES_SECONDS, alone)
    if (world.violations.length === 0 && !alone()) world.violated('two processes of one name for ever')
    this.#advance(timeline.now + QUIET_SECONDS, () => false)
    this.#nothingLeft()
    return {
      options,
      violations: world.violations,
      hash: world.history.hash,
      events: timeline.count,
      virtualSeconds: timeline.now,
      faults: this.#injected,
      seen: world.history.seen,
      endings: this.#clients.flatMap(({ endings }) => endings),
      tail: (lines) => world.history.tail(lines),
    }
  }

  /** What has survived must still be able to answer. */
  #tryAgain(deadline: number): void {
    const world = this.#world
    if (world.violations.length > 0) return
    const promptTokens = Int32Array.from({ length: 24 }, (_, i) => (i * 7) % 24)
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 0 }
    const of: ClientOptions = { at: 0, promptTokens, maxTokens: 3, sampling, stopTokens: [], readSeconds: 0 }
    const last = new Client(world, 'last', of)
    this.#clients.push(last)
    this.#advance(deadline, () => !last.waiting)
  }

  #advance(deadline: number, until: () => boolean): void {
    const world = this.#world
    const stop = (): boolean => until() || world.violations.length > 0 || world.timeline.count > MOST_EVENTS
    world.timeline.run({ until: stop, deadline, each: () => this.#look() })
    if (world.timeline.count > MOST_EVENTS) world.violated('no end of events')
  }

  /** What must hold at any time. */
  #look(): void {
    if (++this.#checks % LOOK_EVERY !== 0) return
    const { coordinator, options } = this.#world
    if (coordinator === undefined) return
    const { running, waiting } = coordinator.runs.cluster().runs
    if (running > options.queue.maxDecoding) this.#world.violated(`${running} runs at once`)
    if (waiting > options.queue.maxWaiting) this.#world.violated(`${waiting} runs wait`)
  }

  #aim(fault: Fault, { event, count, late, worker, other }: Aim): void {
    const { timeline } = this.#world
    let left = count
    this.#aimed.push((happened, { workers, decode }) => {
      if (happened !== event || --left !== 0) return
      const names: string[] = [...workers.map((own) => own.worker), decode]
      const first = Math.floor(worker * names.length)
      const second = (first + 1 + Math.floor(other * (names.length - 1))) % names.length
      const at = { worker: names[first]!, other: names[second] === names[first] ? COORDINATOR : names[second]! }
      timeline.after(late, () => {
        this.#inject({ ...fault, ...at })
      })
    })
  }

  #inject(fault: Fault): void {
    const world = this.#world
    if (world.healed) return
    const { history, network, timeline } = world
    const { kind, worker, other, seconds, strength } = fault
    const life = world.workers.get(worker)
    const path = network.path(worker, other)
    history.note('fault', kind, worker, other, seconds.toFixed(3), strength.toFixed(1))
    this.#injected.set(kind, (this.#injected.get(kind) ?? 0) + 1)
    const until = timeline.now + seconds
    const healing = (heal: () => void): void => {
      timeline.after(seconds, () => {
        if (!world.healed) heal()
      })
    }
    switch (kind) {
      case 'kill':
        this.#kill(life, seconds)
        return
      case 'freeze':
        if (life?.process.alive !== true) return
        if (life.agent.running > 0) history.saw('a worker with runs was frozen')
        life.process.freeze()
        healing(() => life.process.thaw())
        return
      case 'slow':
        if (life === undefined) return
        life.process.slow = strength
        healing(() => {
          life.process.slow = 1
        })
        return
      case 'cut_control':
        network.cut(worker, COORDINATOR, true)
        return
      case 'cut_peer':
        network.cut(worker, other, true)
        return
      case 'stall':
        path.stalledUntil = until
        return
      case 'flip':
        for (const to of world.workers.keys()) network.path(worker, to).flips += Math.ceil(strength / 40)
        return
      case 'flip_header':
        for (const to of world.workers.keys()) network.path(worker, to).headerFlips += Math.ceil(strength / 40)
        return
      case 'repeat':
        for (const to of world.workers.keys()) network.path(worker, to).repeats += Math.ceil(strength / 40)
        return
      case 'delay': {
        const more = 0.01 * strength
        path.delay += more
        healing(() => {
          path.delay -= more
        })
        return
      }
      case 'refuse':
        network.path(other, worker).refusedUntil = until
        network.path(worker, other).refusedUntil = until
        network.cut(worker, other, false)
        return
      case 'slow_link': {
        path.bytesPerSecond /= strength
        healing(() => {
          path.bytesPerSecond *= strength
        })
        return
      }
      case 'restart_coordinator':
        this.#endCoordinator(() => world.coordinator?.process.kill(), seconds)
        return
      case 'stop_coordinator':
        this.#endCoordinator(() => world.coordinator?.stop(), seconds)
        return
      case 'join':
        this.#join(worker)
        return
      case 'leave':
        this.#leave(life, seconds)
        return
      case 'duplicate':
        if (life?.process.alive === true && world.livesOf(worker).length === 1) this.#double(life, strength > 10)
        return
      case 'lie':
      case 'two_faced':
        if (life !== undefined) this.#lie(life, kind, Math.floor(strength) % world.options.layers, healing)
        return
      default:
        kind satisfies never
    }
  }

  /** It is never started again, but if it stays, it may be that the first one is not. */
  #double(life: WorkerLife, sameUrl: boolean): void {
    const { history } = this.#world
    if (life.agent.running > 0) history.saw('a worker with runs got a double')
    history.saw(sameUrl ? 'a double came at the same address' : 'a double came at another address')
    this.#world.startDouble(life.of, sameUrl)
  }

  #lie(life: WorkerLife, kind: 'lie' | 'two_faced', layer: number, healing: (heal: () => void) => void): void {
    if (kind === 'lie') life.engine.liesInLayer = layer
    else life.twoFacedIn = layer
    healing(() => beHonest(life))
  }

  #kill(life: WorkerLife | undefined, seconds: number): void {
    const world = this.#world
    if (life?.process.alive !== true) return
    const { name, role } = life.of
    if (life.agent.running > 0) world.history.saw(`a ${role} worker with runs was killed`)
    life.process.kill()
    world.timeline.after(seconds, () => this.#restart(life))
    world.history.note('killed', name)
  }

  #restart(life: WorkerLife): void {
    const world = this.#world
    const { name } = life.of
    if (life.process.alive || world.gone.has(name) || world.workers.get(name) !== life) return
    world.startWorker({ ...life.of, clockOffset: life.of.clockOffset + 17 })
  }

  #endCoordinator(end: () => void, seconds: number): void {
    const world = this.#world
    const life = world.coordinator
    if (life === undefined) return
    if (life.runs.cluster().runs.running > 0) world.history.saw('a coordinator with runs went')
    end()
    // A coordinator that was asked to stop ends when it has answered its clients.
    world.timeline.after(0.2, () => life.process.kill())
    world.timeline.after(0.2 + Math.min(seconds, 3), () => {
      if (world.coordinator === undefined) world.startCoordinator()
    })
  }

  #join(like: string): void {
    const world = this.#world
    const of = world.options.workers.find(({ name }) => name === like)
    const name = `${like}-like`
    if (of !== undefined && !world.workers.has(name)) world.startWorker({ ...of, name })
  }

  #leave(life: WorkerLife | undefined, seconds: number): void {
    const world = this.#world
    if (life === undefined || !life.process.alive || life.process.frozen || life.leaving) return
    life.leaving = true
    world.gone.add(life.of.name)
    if (life.agent.running > 0) world.history.saw('a worker with runs was asked to leave')
    void life.agent.leave(30)
    world.timeline.after(seconds + 2, () => {
      if (world.healed) return
      world.gone.delete(life.of.name)
      this.#restart(life)
    })
  }

  /**
   * The faults end. Where all heals, that is all. Else a core that must be enough (a worker, a decode node, the coordinator)
   * heals, and every other failure is for ever: a cluster that gets on only because every fault ends would show.
   */
  #heal(): void {
    const world = this.#world
    const { options, network } = world
    world.healed = true
    world.history.note('heals', options.core)
    const names = new Set([...options.workers.map(({ name }) => name), ...world.workers.keys()])
    const core = options.core === 'all' ? names : this.#core()
    for (const name of names) if (!core.has(name)) this.#dieForEver(name)
    if (world.coordinator === undefined) world.startCoordinator()
    for (const life of world.workers.values()) beHonest(life)
    for (const name of core) this.#healWorker(name)
    const healed = [...core, COORDINATOR]
    for (const a of healed)
      for (const b of healed) {
        const path = network.path(a, b)
        const { delay, bytesPerSecond } = options.network
        Object.assign(path, {
          delay,
          bytesPerSecond,
          stalledUntil: 0,
          refusedUntil: 0,
          flips: 0,
          headerFlips: 0,
          repeats: 0,
        })
      }
    network.wake()
  }

  #core(): ReadonlySet<string> {
    const { workers } = this.#world.options
    const suspects: readonly string[] = this.#world.coordinator?.registry.state.quarantined ?? []
    const roomy = (role: string): string => {
      const all = workers.filter((worker) => worker.role === role)
      const good = all.filter(
        ({ name, budgetBytes, kvBudgetBytes }) =>
          Math.min(budgetBytes, kvBudgetBytes) > 1e6 && !suspects.includes(name),
      )
      return this.#chance.pick(good.length > 0 ? good : all).name
    }
    return new Set([roomy('prefill'), roomy('decode')])
  }

  #healWorker(name: string): void {
    const world = this.#world
    world.gone.delete(name)
    const life = world.workers.get(name)
    if (life === undefined) {
      const of = world.options.workers.find((worker) => worker.name === name)
      if (of !== undefined) world.startWorker(of)
      return
    }
    life.process.slow = 1
    life.process.thaw()
    // Of two, the one that has the name stays.
    if (world.livesOf(name).length === 0) this.#restart(life)
  }

  #dieForEver(name: string): void {
    const world = this.#world
    world.gone.add(name)
    const life = world.workers.get(name)
    world.doubles.get(name)?.process.kill()
    const how = this.#chance.pick(['killed', 'killed', 'frozen', 'cut off'])
    world.history.note('for ever', name, how)
    if (how === 'killed') life?.process.kill()
    else if (how === 'frozen') life?.process.freeze()
    else
      for (const other of [...world.workers.keys(), COORDINATOR]) {
        world.network.path(name, other).stalledUntil = Number.POSITIVE_INFINITY
        world.network.path(other, name).stalledUntil = Number.POSITIVE_INFINITY
      }
  }

  /** After the last run nothing of any run is held by anybody who could let go. */
  #nothingLeft(): void {
    const world = this.#world
    const { coordinator } = world
    if (world.violations.length > 0 || coordinator === undefined) return
    const left = (what: string, count: number, most = 0): void => {
      if (count > most) world.violated(`${count} ${what} left`)
    }
    const { running, waiting } = coordinator.runs.cluster().runs
    left('running runs', running)
    left('waiting runs', waiting)
    for (const { id, runs, reserved } of coordinator.registry.state.workers) {
      left(`runs of ${id}`, runs.length)
      left(`reservations of ${id}`, reserved.size)
    }
    left('followers', coordinator.registry.followers)
    left('timers of the coordinator', coordinator.process.sleeping, 1)
    for (const life of [...world.workers.values(), ...world.doubles.values()]) {
      if (!this.#hears(life)) continue
      const name = life.process.host
      left(`sessions of ${name}`, life.agent.running)
      left(`runs that ${name} serves`, life.listening.held.runs)
      left(`runs that ${name} computes`, life.host.held.runs)
      left(`bytes of caches that ${name} counts`, life.host.held.kvBytes)
      left(`tensors of ${name}`, tensorsOfRuns(life))
      left(`timers of ${name}`, life.process.sleeping, 3 + life.host.held.kept.caches)
    }
  }

  /** Whether it lives and the coordinator can reach it. */
  #hears({ process }: WorkerLife): boolean {
    const { network } = this.#world
    const reached = network.path(COORDINATOR, process.host).stalledUntil < Number.POSITIVE_INFINITY
    return process.alive && !process.frozen && reached
  }
}

/** What an engine holds for runs: all that it has not been told to release. */
/** Those of KV that has outlived its run are held on purpose. */
const tensorsOfRuns = ({ engine, host }: WorkerLife): number =>
  engine.live.size - engine.shape.layers * host.held.kept.caches

function beHonest(life: WorkerLife): void {
  life.engine.liesInLayer = undefined
  life.twoFacedIn = undefined
}
