import type { Clock } from '../../shared/clock.ts'
import { asHeadraceError, HeadraceError, isErrorCode } from '../../shared/errors.ts'
import { kvBytesPerTokenLayer } from '../../shared/model-shape.ts'
import { blocksOf } from '../../shared/plan.ts'
import type { DecodeAssignment, PrefillAssignment } from '../../shared/protocol/control.ts'
import { Assembly } from '../decode/assembly.ts'
import { decode } from '../decode/decode-loop.ts'
import type { Engine } from '../engine/engine.ts'
import { Idle } from '../idle.ts'
import { Arrivals } from '../prefill/arrivals.ts'
import { calibrate } from '../prefill/calibrate.ts'
import { encodingsOf } from '../prefill/encodings.ts'
import type { KvBlock, Use } from '../prefill/exchange.ts'
import { runLayers } from '../prefill/layer-loop.ts'
import { routesOf } from '../prefill/routes.ts'
import type { ComputeCommand, ComputeEvent, ComputeReply } from './messages.ts'

/** A run as the compute thread sees it: something to deliver blocks to and to cancel. */
interface Running {
  readonly controller: AbortController
  deliver(block: KvBlock): void
  stop(): void
}

/**
 * What the compute thread does, apart from being a thread: takes commands, runs layer loops and decode loops on the
 * engine, several at once if asked (they take turns between pieces of arithmetic), and posts what happens.
 */
export class ComputeHost {
  readonly #of: ComputeHostOptions
  readonly #runs = new Map<string, Running>()
  readonly #idle: Idle
  /** KV caches of the runs that are being decoded. */
  #kvBytes = 0

  constructor(of: ComputeHostOptions) {
    this.#of = of
    this.#idle = new Idle(of.clock, () => {
      of.engine.trim()
      of.collectGarbage()
    })
  }

  handle(command: ComputeCommand): void {
    switch (command.kind) {
      case 'calibrate':
        this.#calibrate()
        return
      case 'prefill':
        this.#prefill(command.assignment, command.tokens)
        return
      case 'decode':
        this.#decode(command.assignment, command.lastToken)
        return
      case 'deliver':
        this.#runs.get(command.run)?.deliver(command.block)
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

  #calibrate(): void {
    const { engine, clock, post } = this.#of
    calibrate(engine, clock).then(
      (cost) => post({ kind: 'calibrated', cost }),
      (thrown: unknown) => post({ kind: 'error', ...plainError(thrown) }),
    )
  }

  #prefill(assignment: PrefillAssignment, tokens: Int32Array): void {
    const { run, blockTokens, rank } = assignment
    const { engine, clock, yieldTurn } = this.#of
    const controller = new AbortController()
    const others = routesOf(assignment)
      .origins(assignment)
      .flatMap((origin) => blocksOf(assignment.workers[origin]?.spans ?? [], blockTokens))
    const arrivals = new Arrivals(others.length, controller.signal)
    const exchange = {
      publish: (block: KvBlock, uses: readonly Use[]) =>
        this.#post(run, { kind: 'published', block, uses }, [block.bytes.buffer]),
      next: (layer: number) => arrivals.next(layer),
      release: (layer: number) => {
        arrivals.release(layer)
        this.#post(run, { kind: 'released', layer })
      },
    }
    this.#runs.set(run, { controller, deliver: (block) => arrivals.add(block), stop: () => undefined })
    const spans = assignment.workers[rank]?.spans ?? []
    const encodings = (layer: number) => encodingsOf(assignment, layer, engine.shape.layers)
    const { signal } = controller
    this.#settle(run, runLayers({ engine, spans, blockTokens, tokens, exchange, encodings, clock, signal, yieldTurn }))
  }

  #decode(assignment: DecodeAssignment, lastToken: number): void {
    const controller = new AbortController()
    this.#settle(assignment.run, this.#assembleAndDecode(assignment, lastToken, controller))
  }

  async #assembleAndDecode(assignment: DecodeAssignment, lastToken: number, controller: AbortController) {
    const { engine, clock, yieldTurn, kvBudgetBytes } = this.#of
    const { run, workers, blockTokens } = assignment
    const { signal } = controller
    const started = clock.now()
    const capacity = assignment.promptTokens + assignment.maxTokens - 1
    const bytes = engine.shape.layers * capacity * kvBytesPerTokenLayer(engine.shape)
    const assembly = new Assembly({
      engine,
      capacity,
      expectedBlocks:
        blocksOf(
          workers.flatMap(({ spans }) => spans),
          blockTokens,
        ).length * engine.shape.layers,
      budgetBytes: kvBudgetBytes - this.#kvBytes,
      signal,
    })
    this.#kvBytes += bytes
    let enough = false
    this.#runs.set(run, {
      controller,
      stop: () => {
        enough = true
      },
      deliver: (block) => assembly.add(block).catch((thrown: unknown) => controller.abort(asHeadraceError(thrown))),
    })
    try {
      await assembly.complete()
      const waitSeconds = clock.now() - started
      this.#post(run, { kind: 'assembled' })
      const done = await decode({
        engine,
        assignment,
        lastToken,
        kv_layers: assembly.kv_layers,
        onLogits: (logits) => this.#post(run, { kind: 'logits', logits: logits as Float32Array<ArrayBuffer> }),
        onToken: (index, token, logprob) =>
          this.#post(run, { kind: 'token', index, token, ...(logprob === undefined ? {} : { logprob }) }),
        enough: () => enough,
        clock,
        signal,
        yieldTurn,
      })
      return { ...done, waitSeconds }
    } finally {
      await assembly.release()
      this.#kvBytes -= bytes
    }
  }

  /** Reports how a run ended, exactly once, and forgets it. */
  #settle(run: string, ending: Promise<Omit<Extract<ComputeEvent, { kind: 'finished' }>, 'kind'>>): void {
    this.#idle.end()
    const end = (event: ComputeEvent): void => {
      this.#runs.delete(run)
      this.#post(run, event)
      if (this.#runs.size === 0) this.#idle.begin()
    }
    ending.then(
      (times) => end({ kind: 'finished', ...times }),
      (thrown: unknown) => end({ kind: 'failed', ...plainError(thrown) }),
    )
  }

  #post(run: string, event: ComputeEvent, transfer: ArrayBuffer[] = []): void {
    this.#of.post({ kind: 'run', run, event }, transfer)
  }
}

export interface ComputeHostOptions {
  readonly engine: Engine
  readonly clock: Clock
  readonly kvBudgetBytes: number
  readonly post: (reply: ComputeReply, transfer?: ArrayBuffer[]) => void
  readonly yieldTurn: () => Promise<void>
  readonly collectGarbage: () => void
}

/** An error in a form that threads can pass on. */
export function plainError(thrown: unknown) {
  const { code, message, details } = asHeadraceError(thrown, 'engine_failed')
  return { code, message, details }
}

export function errorFromPlain(
  plain: ReturnType<typeof plainError> | { code: string; message: string },
): HeadraceError {
  const details = 'details' in plain ? plain.details : {}
  return new HeadraceError(isErrorCode(plain.code) ? plain.code : 'internal', plain.message, { details })
}
