import { checkedBlocks } from '../../shared/checked-blocks.ts'
import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { kvBytesPerTokenLayer } from '../../shared/model-shape.ts'
import { blocksOf, spanTokens, type Wire } from '../../shared/plan.ts'
import type { DecodeAssignment } from '../../shared/protocol/control.ts'
import { Assembly } from '../decode/assembly.ts'
import { decode } from '../decode/decode-loop.ts'
import type { KvMemory, PromptKv } from '../decode/kv-memory.ts'
import { type BlockToCheck, checkBlocks } from '../decode/self-check.ts'
import { computeTail } from '../decode/tail.ts'
import type { Kv } from '../engine/engine.ts'
import type { EngineScope } from '../engine/engine-scope.ts'
import type { Wanted } from '../kv/expected-blocks.ts'
import type { Incoming } from '../kv/incoming.ts'
import type { DeliveredBlock, KvBlock } from '../prefill/exchange.ts'
import { TraceRecorder } from '../trace/recorder.ts'
import { tracedEngine } from '../trace/traced-engine.ts'
import type { ComputeEvent } from './messages.ts'
import type { MovingWatch } from './moving.ts'
import type { Turn } from './turns.ts'

export interface DecodeRunOptions {
  readonly assignment: DecodeAssignment
  /** The node's own tokens, then those of the blocks to check. */
  readonly given: Int32Array
  readonly scope: EngineScope
  readonly memory: KvMemory
  readonly incoming: Incoming
  readonly controller: AbortController
  readonly turn: Turn
  readonly clock: Clock
  /** Begins to measure what sockets take from the arithmetic. */
  readonly watchMoving: () => MovingWatch
  readonly post: (event: ComputeEvent) => void
}

type Answered = Omit<Extract<ComputeEvent, { kind: 'finished' }>, 'kind'>

/** The prompt's last logits, and what it took to get there. */
type Prompt = Pick<PromptKv, 'logits'> & Omit<Answered, 'reason' | 'trace'>

/** Where the KV of the run lies. */
interface Cache {
  readonly kv_layers: readonly Kv[]
  /** Computes what is left of the prompt. */
  readonly prompt: () => Promise<Prompt>
  /** Resolves when nothing is being written there, or read. */
  readonly settled: () => Promise<void>
}

/** A decode node's part in a run, as its compute thread sees it: the prompt's KV comes together, then the answer. */
export class DecodeRun {
  readonly controller: AbortController
  readonly #of: DecodeRunOptions
  readonly #trace: TraceRecorder
  readonly #capacity: number
  readonly #bytes: number
  #assembly: Assembly | undefined
  #enough = false

  constructor(of: DecodeRunOptions) {
    const { promptTokens, maxTokens } = of.assignment
    const { shape } = of.scope.engine
    this.#of = of
    this.controller = of.controller
    this.#trace = new TraceRecorder(of.clock)
    this.#capacity = promptTokens + maxTokens - 1
    this.#bytes = shape.layers * this.#capacity * kvBytesPerTokenLayer(shape)
  }

  stop(): void {
    this.#enough = true
  }

  deliver(block: DeliveredBlock): void {
    const { layer, start, count } = block
    this.#assembly?.add(block).then(
      (intact) => {
        if (!intact) this.#of.post({ kind: 'damaged', layer, start, count })
      },
      (thrown: unknown) => this.controller.abort(asHeadraceError(thrown)),
    )
  }

  async fetch(wanted: Wanted, wire: Wire): Promise<KvBlock> {
    if (this.#assembly === undefined) throw new HeadraceError('internal', 'nobody makes KV of this run')
    return this.#assembly.fetch(wanted, wire)
  }

  /** Blocks can be delivered as soon as this was called. */
  async answer(): Promise<Answered> {
    const { assignment, turn } = this.#of
    const { keep, promptTokens } = assignment
    const cache = keep?.resume ? this.#resume(keep.name) : this.#assemble()
    const { kv_layers } = cache
    let kept: PromptKv | undefined
    try {
      const { logits, ...times } = await cache.prompt()
      if (keep !== undefined) kept = { promptTokens, capacity: this.#capacity, kv_layers, logits: logits.slice() }
      turn.decode()
      const reason = await this.#decode(kv_layers, logits)
      return { reason, trace: this.#trace.encode(), ...times }
    } catch (thrown) {
      // What has failed here would fail again.
      if (!this.controller.signal.aborted) kept = undefined
      throw thrown
    } finally {
      await cache.settled()
      this.#leave(kv_layers, kept)
    }
  }

  /** Nothing is left to compute. */
  #resume(name: string): Cache {
    const { assignment, given, memory, scope, post } = this.#of
    const { promptTokens, prefillTokens } = assignment
    if (prefillTokens !== promptTokens || given.length > 0) throw notThePrompt(assignment, given)
    const { kv_layers, logits } = memory.resume(name, { promptTokens, capacity: this.#capacity })
    scope.hold(...kv_layers)
    post({ kind: 'assembled' })
    return {
      kv_layers,
      prompt: async () => ({ logits, computeSeconds: 0, attendSeconds: 0, waitSeconds: 0 }),
      settled: async () => undefined,
    }
  }

  /** @throws HeadraceError `out_of_memory` */
  #assemble(): Cache {
    const { assignment, given, memory, scope, incoming, controller, post } = this.#of
    const { tokens, checks } = sortTokens(assignment, given)
    const { workers, blockTokens, promptTokens } = assignment
    const { engine } = scope
    const blocks = workers.flatMap(({ spans }) => blocksOf(spans, blockTokens))
    const { signal } = controller
    const of = { engine, promptTokens, capacity: this.#capacity, blocks, incoming, signal }
    const assembly = memory.takeFor(this.#bytes, () => new Assembly(of))
    this.#assembly = assembly
    assembly.complete().then(
      () => post({ kind: 'assembled' }),
      () => undefined, // cancelled: the run's end tells
    )
    return {
      kv_layers: assembly.kv_layers,
      prompt: () => this.#computePrompt(assembly, tokens, checks),
      settled: () => assembly.settled(),
    }
  }

  async #computePrompt(assembly: Assembly, tokens: Int32Array, checks: readonly BlockToCheck[]): Promise<Prompt> {
    const { assignment, scope, clock, turn, post } = this.#of
    const { promptTokens, prefillTokens } = assignment
    const { kv_layers } = assembly
    const trace = this.#trace
    const awaited = {
      kv_layers,
      computed: (layer: number, start: number) => assembly.computed(layer, start),
      take: (layer: number) => trace.timed('wait', layer, () => assembly.take(layer)),
    }
    const engine = tracedEngine(scope.engine, trace)
    const onLayer = (layer: number): void => post({ kind: 'released', layer })
    const moved = this.#of.watchMoving()
    const tail = { engine, tokens, promptTokens, start: prefillTokens, assembly: awaited, clock, turn, onLayer }
    const { logits, waitSeconds } = await computeTail(tail)
    const computeSeconds = turn.seconds
    const parts = trace.partsOf(computeSeconds)
    const moving = moved({ computeSeconds, waitSeconds })
    for await (const found of checkBlocks({ engine: scope.engine, kv_layers, promptTokens, turn }, checks))
      post({ kind: 'checked', ...found })
    return { logits, computeSeconds, ...parts, waitSeconds, ...moving }
  }

  #decode(kv_layers: readonly Kv[], firstLogits: Float32Array) {
    const { assignment, scope, turn, post } = this.#of
    return decode({
      engine: tracedEngine(scope.engine, this.#trace),
      assignment,
      firstLogits,
      kv_layers,
      onLogits: (logits) => post({ kind: 'logits', logits: logits as Float32Array<ArrayBuffer> }),
      onToken: (index, token, logprob) => {
        this.#trace.token(index)
        post({ kind: 'token', index, token, ...(logprob === undefined ? {} : { logprob }) })
      },
      enough: () => this.#enough,
      turn,
    })
  }

  /** The KV of a whole prompt can outlive the run: also one that was cancelled, because its coordinator is gone. */
  #leave(kv_layers: readonly Kv[], kept: PromptKv | undefined): void {
    const { assignment, memory, scope } = this.#of
    if (kept === undefined || assignment.keep === undefined) {
      scope.engine.release(...kv_layers)
      memory.give(this.#bytes)
      return
    }
    scope.letGo(...kv_layers)
    memory.keep(assignment.keep.name, kept, this.#bytes)
  }
}

/** The decode node's own tokens, which with the workers' part are the whole prompt, and those of the blocks to check. */
function sortTokens(assignment: DecodeAssignment, given: Int32Array): { tokens: Int32Array; checks: BlockToCheck[] } {
  const { promptTokens, prefillTokens, workers, blockTokens } = assignment
  const others = workers.reduce((sum, { spans }) => sum + spanTokens(spans), 0)
  const blocks = checkedBlocks(workers, blockTokens, assignment.checks)
  const own = promptTokens - prefillTokens
  if (own < 1 || others !== prefillTokens || given.length !== own + spanTokens(blocks))
    throw notThePrompt(assignment, given)
  let from = own
  const checks = blocks.map((block) => {
    const tokens = given.subarray(from, from + block.end - block.start)
    from += tokens.length
    return { ...block, tokens }
  })
  return { tokens: given.subarray(0, own), checks }
}

const notThePrompt = ({ promptTokens, prefillTokens }: DecodeAssignment, given: Int32Array): HeadraceError =>
  new HeadraceError('frame_bad_schema', 'the parts of a prompt are not the prompt', {
    details: { promptTokens, prefillTokens, given: given.length },
  })
