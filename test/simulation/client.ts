import { readyDecode, readyPrefill } from '../../coordinator/cluster/state.ts'
import type { RunEvent } from '../../coordinator/runs/events.ts'
import { HeadraceError } from '../../shared/errors.ts'
import type { Plan } from '../../shared/plan.ts'
import { type ClientOptions, PLENTY } from './options.ts'
import { type ToyAnswer, toyAnswer } from './toy-model.ts'
import type { CoordinatorLife, World } from './world.ts'

/** How a request that a client has sent may end. A client sends it again after all but the first two. */
export type Ending = 'done' | 'cancelled' | 'lost' | (string & {})

const RETRY_SECONDS = 0.4
/** Codes that say: not with this cluster. They are final when nothing will change any more. */
const HOPELESS: ReadonlySet<string> = new Set(['plan_impossible', 'out_of_memory'])
/** A run that has lost as many decode nodes is given up. */
const MOST_FAILOVERS = 5
/** After the cluster has healed, a request is sent so often at most. */
const TRIES_WHEN_HEALED = 8

/** One client with one request, which it sends until it is answered; and what it checks of each answer. */
export class Client {
  /** How it ended, if it has. */
  end: 'answered' | 'left' | 'gave up' | undefined
  readonly endings: Ending[] = []
  readonly expected: ToyAnswer
  readonly name: string
  readonly of: ClientOptions
  readonly #world: World
  #triesWhenHealed = 0
  #open: AbortController | undefined
  #leaving = false
  /** Of the try that is under way. */
  told = 0
  #failovers = 0

  constructor(world: World, name: string, of: ClientOptions) {
    this.#world = world
    this.name = name
    this.of = of
    this.expected = toyAnswer(world.options.layers, of)
    world.timeline.after(of.at, () => this.#send())
    if (of.leavesAfter !== undefined) world.timeline.after(of.at + of.leavesAfter, () => this.#leave())
  }

  get waiting(): boolean {
    return this.end === undefined
  }

  #leave(): void {
    if (!this.waiting) return
    this.#leaving = true
    this.#world.history.note('leaves', this.name)
    if (this.#open === undefined) this.end = 'left'
    else this.#open.abort(new HeadraceError('cancelled', 'the client left'))
  }

  #send(): void {
    const { coordinator, history, timeline } = this.#world
    if (!this.waiting) return
    if (coordinator === undefined || coordinator.process.frozen) {
      timeline.after(RETRY_SECONDS, () => this.#send())
      return
    }
    history.note('asks', this.name, this.of.promptTokens.length, this.of.maxTokens)
    let ended = false
    const end = (how: Ending): void => {
      if (ended) return
      ended = true
      died()
      this.#open = undefined
      this.#ended(how)
    }
    const died = coordinator.process.onEnd(() => end('lost'))
    this.#ask(coordinator).then(
      (how) => end(how),
      (thrown: unknown) => {
        if (!(thrown instanceof HeadraceError)) this.#world.violated(`a run ended with ${thrown}`)
        end(thrown instanceof HeadraceError ? thrown.code : 'uncoded')
      },
    )
  }

  #ended(how: Ending): void {
    const { history, timeline, healed } = this.#world
    history.note('ended', this.name, how)
    this.endings.push(how)
    if (how === 'done') {
      this.end = 'answered'
      if (this.endings.length > 1) history.saw('a request was answered after it had failed')
    } else if (this.#leaving) {
      this.end = 'left'
    } else {
      if (how === 'cancelled') this.#world.violated('a run was cancelled though its client waits')
      else if (!this.#mayEnd(how)) this.#world.violated(`a run failed with ${how}`)
      if (this.told > 0) history.saw('a run failed after its first token')
      if (healed && how !== 'queue_full' && ++this.#triesWhenHealed === TRIES_WHEN_HEALED) this.#giveUp(how)
      else timeline.after(RETRY_SECONDS * 2 ** Math.min(3, this.endings.length - 1), () => this.#send())
    }
  }

  /** Faults are made up for as long as there is anybody who could. */
  #mayEnd(how: Ending): boolean {
    const { coordinator, options } = this.#world
    switch (how) {
      case 'lost':
      case 'shutting_down':
      case 'queue_full':
        return true
      case 'no_workers':
        return coordinator === undefined || readyPrefill(coordinator.registry.state).length === 0
      case 'no_decode_node':
        return coordinator === undefined || readyDecode(coordinator.registry.state).length === 0
      case 'plan_impossible':
      case 'out_of_memory':
        if (this.of.strategy !== undefined && how === 'plan_impossible') return true // as of a ring of two tokens
        return options.workers.some((worker) => Math.min(worker.budgetBytes, worker.kvBudgetBytes) < PLENTY)
      default:
        return this.#failovers >= MOST_FAILOVERS
    }
  }

  #giveUp(how: Ending): void {
    this.end = 'gave up'
    const { workers } = this.#world.coordinator?.registry.state ?? { workers: [] }
    const suspects = workers.filter(({ state }) => state === 'quarantined')
    if (how === 'no_workers' && suspects.length > 0 && suspects.length === connectedPrefill(workers)) return
    if (!HOPELESS.has(how)) this.#world.violated(`a healed cluster answered ${TRIES_WHEN_HEALED} times with ${how}`)
  }

  async #ask({ process, runs }: CoordinatorLife): Promise<Ending> {
    const { of, expected } = this
    const world = this.#world
    const open = new AbortController()
    this.#open = open
    const enough = new AbortController()
    this.told = 0
    this.#failovers = 0
    let last: RunEvent['kind'] | undefined
    let plan: Plan | undefined
    let finish: Extract<RunEvent, { kind: 'finished' }> | undefined
    const { at: _at, leavesAfter: _leaves, enoughAfter, readSeconds, ...request } = of
    for await (const event of runs.run({ ...request, enough: enough.signal }, open.signal)) {
      if (finish !== undefined) world.violated(`${event.kind} after the end of a run`)
      if ((event.kind === 'planned') !== (last === undefined)) world.violated(`${event.kind} after ${last}`)
      last = event.kind
      if (event.kind === 'planned') {
        plan = event.plan
        world.answers.set(event.run, expected)
        this.#planned(event)
      } else if (event.kind === 'progress' && event.processed > event.total)
        world.violated(`progress: ${event.processed} of ${event.total}`)
      else if (event.kind === 'token') this.#told(event, enough)
      else if (event.kind === 'failed_over') {
        this.#failovers++
        if (event.code === 'kv_wrong' && !this.#quarantined().includes(event.from))
          world.violated(`${event.from} computed wrongly and is not in quarantine`)
        world.history.note('failed over', this.name, event.from, event.code, event.attempt)
        world.history.saw(this.told > 0 ? 'a decode node was replaced in mid-answer' : 'a decode node was replaced')
      } else if (event.kind === 'finished') finish = event
      if (plan !== undefined && (event.kind === 'planned' || event.kind === 'progress' || event.kind === 'token'))
        world.onEvent(event.kind, plan)
      if (readSeconds > 0) await new Promise<void>((resolve) => process.after(readSeconds, resolve))
    }
    if (finish === undefined) {
      world.violated('a run without an end')
      return 'endless'
    }
    const stopped = enoughAfter !== undefined && this.told >= enoughAfter && finish.reason === 'stop'
    if (!stopped && (this.told !== expected.tokens.length || finish.reason !== expected.reason))
      world.violated(
        `${this.told} tokens and ${finish.reason} instead of ${expected.tokens.length} and ${expected.reason}`,
      )
    if (finish.report.completionTokens !== this.told) world.violated('the report counts other tokens')
    world.history.saw(`ended by ${finish.reason}`)
    if (finish.report.cachedTokens > 0) world.history.saw('a prompt was found again')
    for (const { code, tokens } of finish.report.repairs) {
      world.history.note('repaired', this.name, code, tokens)
      world.history.saw(`repaired: ${code}`)
    }
    return 'done'
  }

  #quarantined(): readonly string[] {
    return this.#world.coordinator?.registry.state.quarantined ?? []
  }

  #planned({ run, plan }: Extract<RunEvent, { kind: 'planned' }>): void {
    const { history } = this.#world
    const spans = plan.workers.map(({ worker, spans: own }) => `${worker}:${own.map((s) => `${s.start}-${s.end}`)}`)
    history.note('planned', this.name, run, plan.strategy, ...spans, `${plan.decode}:${plan.prefillTokens}-`)
    const suspects = this.#quarantined()
    for (const { worker } of plan.workers)
      if (suspects.includes(worker)) this.#world.violated(`${run} was planned with ${worker}, which is in quarantine`)
    history.saw(`planned ${plan.workers.length === 0 ? 'no worker' : `${plan.strategy} of ${plan.workers.length}`}`)
  }

  #told({ index, token }: Extract<RunEvent, { kind: 'token' }>, enough: AbortController): void {
    const world = this.#world
    if (index !== this.told) world.violated(`token ${index} instead of ${this.told}`)
    if (token !== this.expected.tokens[index]) world.violated(`a wrong answer: token ${index}`)
    world.history.note('token', this.name, index, token)
    this.told++
    if (this.told === this.of.enoughAfter) enough.abort()
  }
}

const connectedPrefill = (workers: readonly { readonly role: string }[]): number =>
  workers.filter(({ role }) => role === 'prefill').length
