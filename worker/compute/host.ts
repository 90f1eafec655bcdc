import type { Clock } from '../../shared/clock.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { blocksOf, spanTokens, type Wire } from '../../shared/plan.ts'
import { prefillBytes } from '../../shared/prefill-memory.ts'
import type { Cost, DecodeAssignment, PrefillAssignment } from '../../shared/protocol/control.ts'
import { KvMemory } from '../decode/kv-memory.ts'
import type { Engine } from '../engine/engine.ts'
import { engineScope } from '../engine/engine-scope.ts'
import { Idle } from '../idle.ts'
import { isIntact } from '../kv/block.ts'
import type { Wanted } from '../kv/expected-blocks.ts'
import { Incoming } from '../kv/incoming.ts'
import { Arrivals } from '../prefill/arrivals.ts'
import { calibrate } from '../prefill/calibrate.ts'
import { encodingsOf } from '../prefill/encodings.ts'
import type { DeliveredBlock, KvBlock, Use } from '../prefill/exchange.ts'
import { runLayers } from '../prefill/layer-loop.ts'
import { routesOf } from '../prefill/routes.ts'
import { TraceRecorder } from '../trace/recorder.ts'
import { tracedEngine } from '../trace/traced-engine.ts'
import { DecodeRun } from './decode-run.ts'
import type { ComputeEvent, ComputeReply, RunCommand } from './messages.ts'
import { type CpuTimes, type MovingWatch, movingSeconds, type ReadCpu, spentBetween } from './moving.ts'
import { plainError } from './plain-error.ts'
import { type Turn, Turns } from './turns.ts'

/** A run as the compute thread sees it: something to deliver blocks to and to cancel. */
interface Running {
  readonly controller: AbortController
  deliver(block: DeliveredBlock): void
  /** Rejects when the run ends first. */
  fetch(wanted: Wanted, wire: Wire): Promise<KvBlock>
  stop(): void
}

/**
 * What the compute thread does, apart from being a thread: takes commands, runs layer loops and decode loops on the
 * engine, several at once if asked (`turns.ts` says whose turn it is), and posts what happens.
 */
export class ComputeHost {
  readonly #of: ComputeHostOptions
  readonly #runs = new Map<string, Running>()
  readonly #idle: Idle
  readonly #turns: Turns
  /** Runs that have ever come. */
  #opened = 0
  readonly #memory: KvMemory

  constructor(of: ComputeHostOptions) {
    this.#of = of
    this.#turns = new Turns(of.clock, of.yieldTurn)
    const { engine, clock, kvBudgetBytes: budgetBytes, post } = of
    this.#memory = new KvMemory({ engine, clock, budgetBytes, onKept: (names) => post({ kind: 'kept', names }) })
    this.#idle = new Idle(of.clock, () => {
      of.engine.trim()
      of.collectGarbage()
    })
  }

  /** Runs that have not ended, the bytes that they take, and the caches that have outlived their runs. */
  get held(): { readonly runs: number; readonly kvBytes: number; readonly kept: KvMemory['kept'] } {
    return { runs: this.#runs.size, kvBytes: this.#memory.taken, kept: this.#memory.kept }
  }

  handle(command: RunCommand): void {
    switch (command.kind) {
      case 'calibrate':
        this.#calibrate()
        return
      case 'prefill':
        this.#prefill(command.assignment, command.tokens)
        return
      case 'decode':
        this.#decode(command.assignment, command.tokens)
        return
      case 'deliver':
        this.#runs.get(command.run)?.deliver(command.block)
        return
      case 'fetch':
        this.#fetch(command)
        return
      case 'stop':
        this.#runs.get(command.run)?.stop()
        return
      case 'cancel':
        this.#runs.get(command.run)?.controller.abort(new HeadraceError('cancelled', 'cancelled'))
        return
      default:
        command satisfies never
    }
  }

  /** No more commands will come, and nothing outlives its run any more. */
  close(): void {
    this.#memory.close()
  }

  #fetch({ run, id, wanted, wire }: Extract<RunCommand, { kind: 'fetch' }>): void {
    this.#runs
      .get(run)
      ?.fetch(wanted, wire)
      .then(
        (block) => this.#post(run, { kind: 'fetched', id, block }, [block.bytes.buffer]),
        () => undefined, // the run's end tells
      )
  }

  #calibrate(): void {
    const { post } = this.#of
    this.#cost().then(
      (cost) => {
        post({ kind: 'calibrated', cost })
        // what loading has left behind is as large as the model
        if (this.#runs.size === 0) this.#idle.begin()
      },
      (thrown: unknown) => post({ kind: 'error', ...plainError(thrown) }),
    )
  }

  async #cost(): Promise<Cost> {
    const { engine, clock, movingCost } = this.#of
    return { ...(await calibrate(engine, clock)), s: await movingCost() }
  }

  #prefill(assignment: PrefillAssignment, tokens: Int32Array): void {
    this.#opened++
    const { run, blockTokens, promptTokens, rank } = assignment
    const { clock } = this.#of
    const trace = new TraceRecorder(clock)
    const scope = engineScope(this.#of.engine)
    const engine = tracedEngine(scope.engine, trace)
    const controller = new AbortController()
    const others = routesOf(assignment)
      .origins(assignment)
      .flatMap((origin) => blocksOf(assignment.workers[origin]?.spans ?? [], blockTokens))
    const arrivals = new Arrivals(others.length, controller.signal)
    const incoming = this.#incoming(run)
    const exchange = {
      publish: (block: KvBlock, uses: readonly Use[]) =>
        this.#post(run, { kind: 'published', block, uses }, [block.bytes.buffer]),
      next: async (layer: number) => {
        for (;;) {
          const delivered = await trace.timed('wait', layer, () => arrivals.next(layer))
          if (delivered === undefined) return undefined
          const block = incoming.take(delivered)
          if (isIntact(block)) return block
          arrivals.again()
          this.#post(run, { kind: 'damaged', layer, start: block.start, count: block.count })
        }
      },
      release: (layer: number) => {
        arrivals.release(layer)
        this.#post(run, { kind: 'released', layer })
      },
    }
    this.#runs.set(run, {
      controller,
      deliver: (block) => arrivals.add(block),
      fetch: async () => {
        throw new HeadraceError('internal', 'a prefill worker keeps no cache')
      },
      stop: () => undefined,
    })
    const spans = assignment.workers[rank]?.spans ?? []
    const encodings = (layer: number) => encodingsOf(assignment, layer, engine.shape.layers)
    const turn = this.#turns.open(controller.signal)
    const moved = this.#watchMoving(run)
    const layers = assignment.layers.to
    const task = { engine, spans, blockTokens, promptTokens, tokens, layers, exchange, encodings, clock, turn }
    const bytes = prefillBytes(engine.shape, { own: spanTokens(spans), others: spanTokens(others) })
    this.#settle(
      run,
      turn,
      this.#memory
        .within(bytes, () => runLayers(task))
        .then((times) => ({ ...times, ...trace.partsOf(times.computeSeconds), ...moved(times), trace: trace.encode() }))
        .finally(scope.releaseRest),
    )
  }

  #decode(assignment: DecodeAssignment, given: Int32Array): void {
    this.#opened++
    const { run } = assignment
    const controller = new AbortController()
    const turn = this.#turns.open(controller.signal)
    const scope = engineScope(this.#of.engine)
    const running = new DecodeRun({
      assignment,
      given,
      scope,
      memory: this.#memory,
      incoming: this.#incoming(run),
      controller,
      turn,
      clock: this.#of.clock,
      watchMoving: () => this.#watchMoving(run),
      post: (event) => this.#post(run, event),
    })
    this.#runs.set(run, running)
    this.#settle(run, turn, running.answer().finally(scope.releaseRest))
  }

  /**
   * Called at the end, the returned function says how much of the run's time sockets took from it; nothing if other runs
   * were here too, since nobody can tell whose bytes were moved.
   */
  #watchMoving(run: string): MovingWatch {
    const { readCpu } = this.#of
    const opened = this.#opened
    const lookAlone = (): CpuTimes | undefined =>
      this.#opened === opened && this.#runs.size === 1 && this.#runs.has(run) ? readCpu() : undefined
    const before = lookAlone()
    return (times) => {
      const after = before && lookAlone()
      return after === undefined ? {} : { movingSeconds: movingSeconds(spentBetween(before!, after), times) }
    }
  }

  /** Reports how a run ended, exactly once, and forgets it. */
  #settle(run: string, turn: Turn, ending: Promise<Omit<Extract<ComputeEvent, { kind: 'finished' }>, 'kind'>>): void {
    this.#idle.end()
    const end = (event: ComputeEvent): void => {
      turn.close()
      this.#runs.delete(run)
      this.#post(run, event)
      if (this.#runs.size === 0) this.#idle.begin()
    }
    ending.then(
      (times) => end({ kind: 'finished', ...times }),
      (thrown: unknown) => end({ kind: 'failed', ...plainError(thrown) }),
    )
  }

  #incoming(run: string): Incoming {
    return new Incoming((ids) => this.#post(run, { kind: 'used', ids }))
  }

  #post(run: string, event: ComputeEvent, transfer: ArrayBuffer[] = []): void {
    this.#of.post({ kind: 'run', run, event }, transfer)
  }
}

export interface ComputeHostOptions {
  readonly engine: Engine
  readonly clock: Clock
  readonly readCpu: ReadCpu
  /** Seconds that moving a token's K and V of a layer takes from arithmetic. */
  readonly movingCost: () => Promise<number>
  readonly kvBudgetBytes: number
  readonly post: (reply: ComputeReply, transfer?: ArrayBuffer[]) => void
  /** Lets messages of other threads in. */
  readonly yieldTurn: () => Promise<void>
  readonly collectGarbage: () => void
}
