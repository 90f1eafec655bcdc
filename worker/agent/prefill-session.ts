import { asHeadraceError, HeadraceError } from '../../shared/errors.ts'
import { spanTokens } from '../../shared/plan.ts'
import type { PrefillAssignment } from '../../shared/protocol/control.ts'
import { encodeMessage } from '../../shared/protocol/messages.ts'
import { peerDeliverySchema } from '../../shared/protocol/peer.ts'
import type { ComputeRun } from '../compute/compute.ts'
import type { ComputeEvent } from '../compute/messages.ts'
import { errorFromPlain } from '../compute/plain-error.ts'
import { freeNow } from '../free-now.ts'
import type { Subscription } from '../peers/dialling.ts'
import { RunExchange } from '../prefill/run-exchange.ts'
import { Session, type SessionDeps, timesOf } from './session.ts'

/** A link to the decode node may break, and be dialled again; one that goes on breaking is the end. */
const MOST_ASKED_AGAIN = 3

/**
 * A prefill worker's part in a run: the layer loop on the compute thread, its exchange on the links here. If the worker
 * before it fails, what is still to come is fetched from the decode node, who has it from its maker or will have it from
 * whoever makes up for that one: nothing that was computed here is lost.
 */
export class PrefillSession extends Session {
  readonly #assignment: PrefillAssignment
  readonly #exchange: RunExchange
  readonly #compute: ComputeRun
  #source: Subscription | undefined
  /** Of sources: a later one takes the place of all before it. */
  #sources = 0
  /** Times that the decode node was asked again for what did not come from it. */
  #askedAgain = 0
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
    this.#subscribe()
  }

  /** Another worker of the run is gone. In a ring of two it is both, the one before and the one after. */
  override lost(worker: string): void {
    if (this.#exchange.isTarget(worker)) this.#exchange.abandonTarget()
    if (worker === this.#exchange.source?.worker)
      this.#sourceLost(new HeadraceError('worker_lost', `${worker} is lost to the run`))
  }

  #subscribe(): void {
    const source = this.#exchange.source
    if (source === undefined) return
    const turn = ++this.#sources
    const { worker } = source
    const current = (): boolean => turn === this.#sources && !this.over
    const lost = (error: unknown): void => {
      if (current()) this.attempt(() => this.#sourceLost(asHeadraceError(error)))
    }
    const subscribed = this.deps.dialling.subscribe(
      { ...source, source: worker, ticket: this.ticketFor(worker) },
      {
        block: (header, payload, frame) => {
          if (!current()) return
          this.deps.metrics.linkBytes.inc({ direction: 'received', peer: worker }, frame.byteLength)
          this.trace.received(header.layer, worker)
          this.#exchange.receive(header, payload, frame)
        },
        lost,
      },
      this.signal,
    )
    subscribed.then((subscription) => {
      if (!current()) subscription.end()
      else {
        this.#source = subscription
        // Layers may have been finished while the link was dialled.
        const { window } = this.#exchange.source ?? source
        if (window > source.window) subscription.credit(window)
      }
    }, lost)
  }

  /** The source's link may close in good order once everything has come from it. */
  #sourceLost(error: HeadraceError): void {
    if (this.#exchange.received) return
    const from = this.#exchange.source?.worker ?? ''
    if (!this.#exchange.reroute() && ++this.#askedAgain > MOST_ASKED_AGAIN) {
      this.fail(error)
      return
    }
    const { run } = this
    this.deps.log.warn({ run, worker: from, code: error.code }, 'fetching from the decode node instead')
    this.#resubscribe()
  }

  #onCompute(event: ComputeEvent): void {
    if (this.over) return
    if (event.kind === 'published') {
      this.#exchange.publish(event.block, event.uses)
      freeNow(event.block.bytes.buffer) // they are in a frame now
    } else if (event.kind === 'released') {
      this.#exchange.release(event.layer)
      this.deps.report({ kind: 'layer_finished', run: this.run, layer: event.layer })
    } else if (event.kind === 'damaged') this.#damaged(event)
    else if (event.kind === 'finished') {
      this.#done = event
      this.#finishIfDone()
    } else if (event.kind === 'failed') this.fail(errorFromPlain(event))
  }

  #damaged({ layer, start }: { layer: number; start: number }): void {
    const { metrics } = this.deps
    metrics.checksumErrors.inc()
    metrics.blocksRefused.inc({ reason: 'kv_checksum' })
    const fromSource = this.#exchange.again(layer, start)
    // Of those that came from a source that was given up, several may have been damaged.
    if (fromSource)
      this.#sourceLost(new HeadraceError('kv_checksum', `the KV of layer ${layer} at position ${start} is damaged`))
    else this.#resubscribe()
  }

  #resubscribe(): void {
    this.#source?.end()
    this.#source = undefined
    this.#subscribe()
  }

  #finishIfDone(): void {
    if (this.#done === undefined || !this.#exchange.drained || this.over) return
    const { trace } = this.#done
    const { sent, sendSeconds } = this.#exchange
    const tokens = spanTokens(this.#assignment.workers[this.#assignment.rank]?.spans ?? [])
    const { worker } = this.deps
    const times = { ...timesOf(this.#done), sendSeconds }
    this.finish({ kind: 'finished', run: this.run, report: { worker, role: 'prefill', tokens, ...times, sent } }, trace)
  }

  protected clear(): void {
    this.deps.listening.close(this.run)
    this.#source?.end()
    this.#exchange.clear()
    this.#compute.cancel()
  }
}
