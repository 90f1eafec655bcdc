import { HeadraceError } from '../../shared/errors.ts'
import type { DecodeAssignment } from '../../shared/protocol/control.ts'
import type { KvHeader } from '../../shared/protocol/peer.ts'
import type { ComputeRun } from '../compute/compute.ts'
import { errorFromPlain } from '../compute/host.ts'
import type { ComputeEvent } from '../compute/messages.ts'
import { ExpectedBlocks } from '../kv/expected-blocks.ts'
import type { Subscription } from '../peers/dialling.ts'
import { Session, type SessionDeps } from './session.ts'

/**
 * A decode node's part in a run: fetches every worker's blocks while it computes its own tokens, then reports those of
 * the answer as they are sampled.
 */
export class DecodeSession extends Session {
  readonly #expected: ExpectedBlocks
  readonly #compute: ComputeRun
  readonly #sources: Subscription[] = []
  #tokens = 0

  constructor(assignment: DecodeAssignment, tokens: Int32Array<ArrayBuffer>, deps: SessionDeps) {
    super(assignment, deps)
    const { shape } = deps.compute
    this.#expected = new ExpectedBlocks({
      makers: assignment.workers,
      wireOf: ({ handoffWire }) => handoffWire,
      blockTokens: assignment.blockTokens,
      layers: shape.layers,
      fingerprint: deps.fingerprint,
      heads: shape,
    })
    this.#compute = deps.compute.decode(assignment, tokens, (event) => this.attempt(() => this.#onCompute(event)))
    for (const { worker, url } of assignment.workers)
      this.#subscribe(worker, url).catch((error: unknown) => this.fail(error))
  }

  override stop(): void {
    this.#compute.stop()
  }

  /** The cache has room for everything, so the window is open from the start. */
  async #subscribe(worker: string, url: string): Promise<void> {
    const ticket = this.ticketFor(worker)
    const source = await this.deps.dialling.subscribe(
      { run: this.run, source: worker, url, purpose: 'handoff', window: this.deps.compute.shape.layers, ticket },
      {
        block: (header, payload, frame) => this.#receive(worker, header, payload, frame),
        lost: (error) => this.#lost(worker, error),
      },
      this.signal,
    )
    if (this.over) source.end()
    else this.#sources.push(source)
  }

  #receive(worker: string, header: KvHeader, payload: Uint8Array, frame: Uint8Array): void {
    if (header.origin !== worker)
      throw new HeadraceError('kv_identity', `${worker} handed over a block of ${header.origin}`)
    this.#expected.take(header, payload.byteLength)
    this.deps.metrics.linkBytes.inc({ direction: 'received', peer: worker }, frame.byteLength)
    this.trace.received(header.layer, worker)
    const { layer, start, count, dtype, crc32 } = header
    const onUsed = (): void => this.deps.buffers.give(frame)
    this.#compute.deliver({ layer, start, count, dtype, crc32, bytes: payload }, onUsed)
  }

  #lost(worker: string, error: HeadraceError): void {
    if (this.#expected.remaining === 0) return
    this.deps.metrics.handoffFailures.inc({ reason: error.code })
    this.deps.log.warn({ run: this.run, worker, code: error.code }, 'hand-off broke off')
    this.fail(error)
  }

  #onCompute(event: ComputeEvent): void {
    if (this.over) return
    const { run } = this
    const { report, metrics, worker } = this.deps
    if (event.kind === 'assembled') {
      report({ kind: 'kv_assembled', run })
    } else if (event.kind === 'released') {
      report({ kind: 'layer_finished', run, layer: event.layer })
    } else if (event.kind === 'logits') {
      const { buffer, byteOffset, byteLength } = event.logits
      report({ kind: 'logits_computed', run }, new Uint8Array(buffer, byteOffset, byteLength))
    } else if (event.kind === 'token') {
      this.#tokens++
      report({ ...event, kind: 'token_sampled', run })
    } else if (event.kind === 'finished') {
      const { computeSeconds, attendSeconds, movingSeconds, waitSeconds, reason } = event
      const moving = movingSeconds === undefined ? {} : { movingSeconds }
      const times = { computeSeconds, attendSeconds, ...moving, waitSeconds, sendSeconds: 0 }
      const told = { worker, role: 'decode' as const, tokens: this.#tokens, ...times, sent: [] }
      this.finish({ kind: 'finished', run, ...(reason === undefined ? {} : { reason }), report: told }, event.trace)
    } else if (event.kind === 'failed') {
      if (event.code === 'kv_checksum') metrics.checksumErrors.inc()
      this.fail(errorFromPlain(event))
    }
  }

  protected clear(): void {
    for (const source of this.#sources) source.end()
    this.#compute.cancel()
  }
}
