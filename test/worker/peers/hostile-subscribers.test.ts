import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { BufferPool } from '../../../shared/link/buffer-pool.ts'
import { DATA_LIMITS, type Link } from '../../../shared/link/link.ts'
import { createLog } from '../../../shared/log.ts'
import { PROTOCOL_VERSION } from '../../../shared/protocol/control.ts'
import { decodeMessage, encodeMessage } from '../../../shared/protocol/messages.ts'
import { type PeerRequest, peerDeliverySchema, peerRequestSchema } from '../../../shared/protocol/peer.ts'
import { PeerListening, type RunRequest } from '../../../worker/peers/listening.ts'
import { aborted } from '../../support/api.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { memoryLinkPair } from '../../support/memory-link.ts'

/** What one peer may ask of a worker, and what it may make it keep. */

const fingerprint = 'f'.repeat(64)
const HELLO: PeerRequest = { kind: 'hello', protocol: PROTOCOL_VERSION, worker: 'w2', fingerprint }
const subscription = (run: string): PeerRequest => ({
  kind: 'subscribe',
  run,
  purpose: 'prefix',
  window: 1,
  ticket: 't',
})

function listens() {
  // What tickets are worth is tested elsewhere.
  const tickets = { check: () => undefined }
  const log = createLog('test', 'silent')
  const listening = new PeerListening({
    fingerprint,
    tickets,
    clock: new ManualClock(),
    log,
    buffers: new BufferPool(),
  })
  const dial = async () => {
    const [near, far] = memoryLinkPair(DATA_LIMITS)
    const served = listening.serve(far)
    const say = (message: PeerRequest, payload?: Uint8Array) =>
      near.send(encodeMessage(peerRequestSchema, message, payload))
    await say(HELLO)
    return { near, say, served }
  }
  /** Which runs' subscriptions wait here. */
  const parked = (runs: readonly string[]): string[] => {
    const found: string[] = []
    for (const run of runs) listening.open(run, { handle: (request: RunRequest) => void found.push(request.run) })
    return found
  }
  return { dial, parked }
}

async function answered(link: Link): Promise<string> {
  const { message } = decodeMessage(peerDeliverySchema, (await link.receive())!, DATA_LIMITS.maxFrameBytes)
  assert.ok(message.kind === 'ended')
  return `${message.run} ${message.code}`
}

const codeOf = async (link: Link) => ((await aborted(link.closed)) as { code: string }).code

describe('a subscriber', () => {
  it('may have 64 subscriptions wait for their runs: of more the oldest is answered', async () => {
    const { dial, parked } = listens()
    const { near, say } = await dial()
    const runs = Array.from({ length: 66 }, (_, i) => `run-${i}`)
    for (const run of runs) await say(subscription(run))
    assert.equal(await answered(near), 'run-0 worker_failed')
    assert.equal(await answered(near), 'run-1 worker_failed')
    assert.deepEqual(parked(runs), runs.slice(2))
  })

  it('may not have more bytes wait than all may together', async () => {
    const { dial, parked } = listens()
    const { near, say } = await dial()
    const runs = Array.from({ length: 20 }, (_, i) => `run-${i}`)
    for (const run of runs) await say(subscription(run), new Uint8Array(2 ** 20))
    for (const run of runs.slice(0, 4)) assert.equal(await answered(near), `${run} worker_failed`)
    assert.deepEqual(parked(runs), runs.slice(4))
  })

  it('leaves nothing behind that waits', async () => {
    const { dial, parked } = listens()
    const { near, say, served } = await dial()
    await say(subscription('run-1'))
    near.close()
    await served
    assert.deepEqual(parked(['run-1']), [])
  })

  it('is who it said at first', async () => {
    const { near, say } = await listens().dial()
    await say({ ...HELLO, worker: 'w3' })
    assert.equal(await codeOf(near), 'unexpected_message')
  })

  it('loses its link when it probes without end', async () => {
    const { near, say } = await listens().dial()
    const probing = (async () => {
      for (let seq = 0; seq < 1100 && !near.closed.aborted; seq++)
        await say({ kind: 'probe', seq, bytes: 0 }).then(() => near.receive())
    })()
    await assert.rejects(probing, { code: 'unexpected_message' })
  })
})
