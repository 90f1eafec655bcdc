import { checkedBlocks } from '../../shared/checked-blocks.ts'
import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { kvBytesPerTokenLayer } from '../../shared/model-shape.ts'
import { blocksOf, spanTokens, type Wire } from '../../shared/plan.ts'
import type { Cost, DecodeAssignment, PrefillAssignment } from '../../shared/protocol/control.ts'
import { Assembly } from '../decode/assembly.ts'
import { decode } from '../decode/decode-loop.ts'
import { type BlockToCheck, checkBlocks } from '../decode/self-check.ts'
import { computeTail } from '../decode/tail.ts'
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
import type { ComputeEvent, ComputeReply, RunCommand } from './messages.ts'
import { type CpuTimes, movingSeconds, type ReadCpu, spentBetween } from './moving.ts'
import { plainError } from './plain-error.ts'
import { type Turn, Turns } from './turns.ts'

type RunTimes = Parameters<typeof movingSeconds>[1]

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
  /** KV caches of the runs that are being decoded. */
  #kvBytes = 0

  constructor(of: ComputeHostOptions) {
    this.#of = of
    this.#turns = new Turns(of.clock, of.yieldTurn)
    this.#idle = new Idle(of.clock, () => {
      of.engine.trim()
      of.collectGarbage()
    })
  }

  /** Runs that have not ended, and the bytes that their caches take. */
  get held(): { readonly runs: number; readonly kvBytes: number } {
    return { runs: this.#runs.size, kvBytes: this.#kvBytes }
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
    this.#settle(
      run,
      turn,
      runLayers(task)
        .then((times) => ({ ...times, ...traced(trace), ...moved(times) }))
        .finally(scope.releaseRest),
    )
  }

  #decode(assignment: DecodeAssignment, tokens: Int32Array): void {
    this.#opened++
    const controller = new AbortController()
    const turn = this.#turns.open(controller.signal)
    const scope = engineScope(this.#of.engine)
    const answered = this.#prefillAndDecode(assignment, tokens, { controller, turn, engine: scope.engine })
    this.#settle(assignment.run, turn, answered.finally(scope.releaseRest))
  }

  async #prefillAndDecode(
    assignment: DecodeAssignment,
    given: Int32Array,
    { controller, turn, engine }: { controller: AbortController; turn: Turn; engine: Engine },
  ) {
    const { tokens, checks } = sortTokens(assignment, given)
    const { clock, kvBudgetBytes } = this.#of
    const { run, workers, blockTokens, promptTokens, prefillTokens } = assignment
    const trace = new TraceRecorder(clock)
    const capacity = promptTokens + assignment.maxTokens - 1
    const bytes = engine.shape.layers * capacity * kvBytesPerTokenLayer(engine.shape)
    const blocks = workers.flatMap(({ spans }) => blocksOf(spans, blockTokens))
    const budgetBytes = kvBudgetBytes - this.#kvBytes
    const { signal } = controller
    const incoming = this.#incoming(run)
    const assembly = new Assembly({ engine, promptTokens, capacity, blocks, incoming, budgetBytes, signal })
    this.#kvBytes += bytes
    let enough = false
    this.#runs.set(run, {
      controller,
      stop: () => {
        enough = true
      },
      deliver: ({ layer, start, count, ...block }) => {
        const added = assembly.add({ layer, start, count, ...block })
        added.then(
          (intact) => {
            if (!intact) this.#post(run, { kind: 'damaged', layer, start, count })
          },
          (thrown: unknown) => controller.abort(asHeadraceError(thrown)),
        )
      },
      fetch: (wanted, wire) => assembly.fetch(wanted, wire),
    })
    assembly.complete().then(
      () => this.#post(run, { kind: 'assembled' }),
      () => undefined, // cancelled: the run's end tells
    )
    try {
      const onLayer = (layer: number): void => this.#post(run, { kind: 'released', layer })
      const seen = tracedEngine(engine, trace)
      const awaited = {
        kv_layers: assembly.kv_layers,
        computed: (layer: number, start: number) => assembly.computed(layer, start),
        take: (layer: number) => trace.timed('wait', layer, () => assembly.take(layer)),
      }
      const tail = { engine: seen, tokens, promptTokens, start: prefillTokens, assembly: awaited, clock, turn, onLayer }
      const moved = this.#watchMoving(run)
      const { logits, waitSeconds } = await computeTail(tail)
      const computeSeconds = turn.seconds
      const moving = moved({ computeSeconds, waitSeconds })
      const prompt = { computeSeconds, attendSeconds: trace.seconds('attend'), ...moving }
      const { kv_layers } = assembly
      for await (const found of checkBlocks({ engine, kv_layers, promptTokens, turn }, checks))
        this.#post(run, { kind: 'checked', ...found })
      turn.decode()
      const reason = await decode({
        engine: seen,
        assignment,
        firstLogits: logits,
        kv_layers: assembly.kv_layers,
        onLogits: (first) => this.#post(run, { kind: 'logits', logits: first as Float32Array<ArrayBuffer> }),
        onToken: (index, token, logprob) => {
          trace.token(index)
          this.#post(run, { kind: 'token', index, token, ...(logprob === undefined ? {} : { logprob }) })
        },
        enough: () => enough,
        turn,
      })
      return { reason, waitSeconds, ...traced(trace), ...prompt }
    } finally {
      await assembly.release()
      this.#kvBytes -= bytes
    }
  }

  /**
   * Called at the end, the returned function says how much of the run's time sockets took from it; nothing if other runs
   * were here too, since nobody can tell whose bytes were moved.
   */
  #watchMoving(run: string): (times: RunTimes) => { movingSeconds?: number } {
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

/** What a recorder adds to the end of a run. */
const traced = (trace: TraceRecorder) => ({ attendSeconds: trace.seconds('attend'), trace: trace.encode() })

/** The decode node's own tokens, which with the workers' part are the whole prompt, and those of the blocks to check. */
function sortTokens(assignment: DecodeAssignment, given: Int32Array): { tokens: Int32Array; checks: BlockToCheck[] } {
  const { promptTokens, prefillTokens, workers, blockTokens } = assignment
  const others = workers.reduce((sum, { spans }) => sum + spanTokens(spans), 0)
  const blocks = checkedBlocks(workers, blockTokens, assignment.checks)
  const own = promptTokens - prefillTokens
  if (own < 1 || others !== prefillTokens || given.length !== own + spanTokens(blocks))
    throw new HeadraceError('frame_bad_schema', 'the parts of a prompt are not the prompt', {
      details: { promptTokens, prefillTokens, others, given: given.length },
    })
  let from = own
  const checks = blocks.map((block) => {
    const tokens = given.subarray(from, from + block.end - block.start)
    from += tokens.length
    return { ...block, tokens }
  })
  return { tokens: given.subarray(0, own), checks }
}
