import { spanTokens } from '../../shared/plan.ts'
import type { PrefillAssignment } from '../../shared/protocol/control.ts'
import { encodeMessage } from '../../shared/protocol/messages.ts'
import { peerDeliverySchema } from '../../shared/protocol/peer.ts'
import type { ComputeRun } from '../compute/compute.ts'
import { errorFromPlain } from '../compute/host.ts'
import type { ComputeEvent } from '../compute/messages.ts'
import type { Subscription } from '../peers/dialling.ts'
import { RunExchange } from '../prefill/run-exchange.ts'
import { Session, type SessionDeps } from './session.ts'

/** A prefill worker's part in a run: the layer loop on the compute thread, its exchange on the links here. */
export class PrefillSession extends Session {
  readonly #assignment: PrefillAssignment
  readonly #exchange: RunExchange
  readonly #compute: ComputeRun
  #source: Subscription | undefined
  /** How the layer loop ended; blocks may still be on their way out. */
  #done: Extract<ComputeEvent, { kind: 'finished' }> | undefined

  constructor(assignment: PrefillAssignment, tokens: Int32Array<ArrayBuffer>, deps: SessionDeps) {
    super(assignment, deps)
    this.#assignment = assignment
    this.#exchange = new RunExchange({
      assignment,
      shape: deps.compute.shape,
      fingerprint: deps.fingerprint,
      clock: deps.clock,
      trace: this.trace,
      buffers: deps.buffers,
      encode: (header, payload) =>
        encodeMessage(peerDeliverySchema, header, payload, (length) => deps.buffers.take(length)),
      deliver: (block, onUsed) => this.#compute.deliver(block, onUsed),
      credit: (window) => this.#source?.credit(window),
      onDrained: () => this.#finishIfDone(),
      onError: (error) => this.fail(error),
    })
    this.#compute = deps.compute.prefill(assignment, tokens, (event) => this.attempt(() => this.#onCompute(event)))
    deps.listening.open(assignment.run, this.#exchange)
    this.#subscribe().catch((error: unknown) => this.fail(error))
  }

  async #subscribe(): Promise<void> {
    const source = this.#exchange.source
    if (source === undefined) return
    const { url, window } = source
    const ticket = this.ticketFor(source.worker)
    this.#source = await this.deps.dialling.subscribe(
      { run: this.run, source: source.worker, url, purpose: 'prefix', window, ticket },
      {
        block: (header, payload, frame) => {
          this.deps.metrics.linkBytes.inc({ direction: 'received', peer: source.worker }, frame.byteLength)
          this.trace.received(header.layer, source.worker)
          this.#exchange.receive(header, payload, frame)
        },
        lost: (error) => this.#lost(error),
      },
      this.signal,
    )
    if (this.over) this.#source.end()
  }

  /** The source's link may close in good order once everything has come from it. */
  #lost(error: unknown): void {
    if (!this.#exchange.received) this.fail(error)
  }

  #onCompute(event: ComputeEvent): void {
    if (this.over) return
    if (event.kind === 'published') this.#exchange.publish(event.block, event.uses)
    else if (event.kind === 'released') {
      this.#exchange.release(event.layer)
      this.deps.report({ kind: 'layer_finished', run: this.run, layer: event.layer })
    } else if (event.kind === 'finished') {
      this.#done = event
      this.#finishIfDone()
    } else if (event.kind === 'failed') this.fail(errorFromPlain(event))
  }

  #finishIfDone(): void {
    if (this.#done === undefined || !this.#exchange.drained || this.over) return
    const { computeSeconds, attendSeconds, movingSeconds, waitSeconds, trace } = this.#done
    const { sent, sendSeconds } = this.#exchange
    const tokens = spanTokens(this.#assignment.workers[this.#assignment.rank]?.spans ?? [])
    const { worker } = this.deps
    const moving = movingSeconds === undefined ? {} : { movingSeconds }
    const times = { computeSeconds, attendSeconds, ...moving, waitSeconds, sendSeconds }
    this.finish({ kind: 'finished', run: this.run, report: { worker, role: 'prefill', tokens, ...times, sent } }, trace)
  }

  protected clear(): void {
    this.deps.listening.close(this.run)
    this.#source?.end()
    this.#exchange.clear()
    this.#compute.cancel()
  }
}
