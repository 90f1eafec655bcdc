import assert from 'node:assert/strict'
import { asHeadraceError, HeadraceError } from '../../../shared/errors.ts'
import { BufferPool } from '../../../shared/link/buffer-pool.ts'
import { CONTROL_LIMITS, DATA_LIMITS, type Link } from '../../../shared/link/link.ts'
import { createLog } from '../../../shared/log.ts'
import { commandSchema, eventSchema, PROTOCOL_VERSION } from '../../../shared/protocol/control.ts'
import { decodeMessage } from '../../../shared/protocol/messages.ts'
import { Agent } from '../../../worker/agent/agent.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { Engine } from '../../../worker/engine/engine.ts'
import { WorkerMetrics } from '../../../worker/metrics.ts'
import { PeerDialling } from '../../../worker/peers/dialling.ts'
import { PeerListening } from '../../../worker/peers/listening.ts'
import { TicketBook } from '../../../worker/security/ticket-book.ts'
import { inlineCompute } from '../../support/inline-compute.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { MemoryNetwork } from '../../support/memory-link.ts'
import { seededRandom } from '../../support/random.ts'
import { commands as samples } from '../../support/sample-messages.ts'
import { valuesOf } from '../../support/schema-arbitrary.ts'
import { createTinyModel } from '../../support/tiny-model.ts'
import type { Target } from '../target.ts'
import { checkedCode, conversation, speak, turn } from './exchange.ts'

/** A worker whose coordinator has fallen into other hands: whole agent, sessions, and layer loop on a tiny model. */

const COORDINATOR = 'memory://coordinator'
const OWN = 'memory://worker-1'
const SILENT = 'memory://silent'
const fingerprint = 'f'.repeat(64)
const log = createLog('fuzz', 'silent')
/** One for all: each would watch the garbage collector. */
const metrics = new WorkerMetrics({ version: 'test', role: 'prefill', engine: 'reference' })
const ticket = `1234.500.${'A'.repeat(86)}`

const maker = (worker: string, ...spans: readonly (readonly [number, number])[]) => ({
  worker,
  epoch: 1,
  url: worker === 'worker-1' ? OWN : `memory://${worker}`,
  spans: spans.map(([start, end]) => ({ start, end })),
  prefixWire: 'f32' as const,
  handoffWire: 'int8' as const,
})
const workers = [maker('worker-1', [0, 3]), maker('worker-2', [3, 6])]
const layers = { from: 0, to: 2 }
const tickets = ['worker-1', 'worker-2', 'decode-1'].map((source) => ({ source, ticket }))
const common = { workers, blockTokens: 2, promptTokens: 9, tickets }
const place = { decode: 'decode-1', decodeUrl: 'memory://decode-1', layers }
const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1 }

/** Three tokens go with each: assignments are of as many. */
const opening = [
  { kind: 'prefill', run: 'run-1', strategy: 'chain', rank: 0, ...common, ...place },
  { kind: 'prefill', run: 'run-1', strategy: 'chain', rank: 1, ...common, ...place },
  { kind: 'prefill', run: 'run-2', strategy: 'ring', rank: 1, ...common, ...place },
  { kind: 'prefill', run: 'run-3', strategy: 'solo', rank: 0, ...common, ...place },
  ...['run-1', 'run-4'].map((run) => ({
    kind: 'decode',
    run,
    epoch: 1,
    ...common,
    prefillTokens: 6,
    maxTokens: 4,
    stopTokens: [1],
    sampling,
    wantLogits: false,
    checks: [],
  })),
]
const usual = [
  ...samples,
  ...opening,
  { kind: 'joined', worker: 'worker-1', epoch: 1, tickets: { cluster: 'c', key: 'B'.repeat(43), at: 1 } },
  ...['run-1', 'run-2', 'run-4'].flatMap((run) => [
    { kind: 'repair', run, part: `${run}.1`, by: maker('worker-2', [3, 6]), layers, ticket },
    { kind: 'survey', run, part: run, worker: 'worker-2' },
    { kind: 'lost', run, worker: 'worker-1' },
    { kind: 'lost', run, worker: 'worker-2' },
    { kind: 'tickets', run, tickets: [] },
    { kind: 'stop', run },
    { kind: 'cancel', run, code: 'cancelled' },
  ]),
  // Not itself: both ends of a probe in one process take more than one may.
  { kind: 'measure_links', peers: [SILENT, 'memory://nobody'].map((url) => ({ worker: 'worker-2', url })) },
]

export const commands: Target = {
  name: 'commands',
  weight: 2,
  open: async () => {
    const model = await createTinyModel({ contextLength: 64 })
    const engine = await createEngine('reference', model.folder, { threads: 1 })
    const talk = { schema: commandSchema, opening, usual, any: valuesOf(commandSchema, 1500) }
    return {
      input: (dice) => conversation(dice, talk),
      take: (input) => obey(input, engine),
      close: async () => {
        await engine.close()
        await model.remove()
      },
    }
  },
}

/** Speaks to an agent as its coordinator. The outcome is how its link ended, or that it is still open. */
async function obey(input: Uint8Array, engine: Engine): Promise<string> {
  const network = new MemoryNetwork()
  const coordinators: Link[] = []
  network.register(COORDINATOR, CONTROL_LIMITS, (link) => coordinators.push(link))
  const worker = workerOn(network, engine)
  const served = worker.agent.serve().catch((error: unknown) => checkedCode(error))
  while (coordinators.length === 0) await turn()
  const coordinator = coordinators[0]!
  const told = listen(coordinator)
  await speak(input, [coordinator])
  for (let turns = 0; turns < TURNS; turns++) await turn()
  const end = coordinator.closed.aborted ? checkedEnd(coordinator.closed.reason) : 'ok'
  const left = worker.agent.leave(0)
  worker.clock.advance(0)
  await left
  worker.dialling.close()
  await Promise.all([served, told])
  await turn()
  assert.equal(worker.agent.running, 0, 'a session outlived the link')
  assert.equal(worker.listening.held.runs, 0, 'a run is served that nobody has')
  return end
}

/** In which a run of a few tokens comes some way. */
const TURNS = 8

/** A coordinator may say anything of itself; a fault of the agent has a cause. */
function checkedEnd(reason: unknown): string {
  const told = reason instanceof HeadraceError && reason.code === 'internal' && reason.cause === undefined
  return told ? 'internal' : checkedCode(reason)
}

/** What the agent reports is what its schema allows, and no fault of its own. */
async function listen(link: Link): Promise<void> {
  for (let frame = await next(link); frame; frame = await next(link)) {
    const { message } = decodeMessage(eventSchema, frame, CONTROL_LIMITS.maxFrameBytes)
    if (message.kind === 'failed' || message.kind === 'feed_lost')
      assert.notEqual(message.code, 'internal', message.message)
  }
}

const next = (link: Link): Promise<Uint8Array | undefined> =>
  link.receive().catch((error: unknown) => {
    asHeadraceError(error)
    return undefined // told by the link's end
  })

function workerOn(network: MemoryNetwork, engine: Engine) {
  const clock = new ManualClock()
  const worker = 'worker-1'
  const ticketsOf = new TicketBook(worker, clock)
  const listening = new PeerListening({ fingerprint, tickets: ticketsOf, clock, log, buffers: new BufferPool() })
  network.register(OWN, DATA_LIMITS, (link) => void listening.serve(link))
  network.register(SILENT, DATA_LIMITS, () => undefined)
  const dialling = new PeerDialling({ dialer: network, worker, fingerprint, log })
  const agent = new Agent({
    coordinatorUrl: COORDINATOR,
    join: {
      kind: 'join',
      protocol: PROTOCOL_VERSION,
      name: worker,
      role: 'prefill',
      fingerprint,
      engine: 'reference',
      precision: 'f32',
      url: OWN,
      host: 'memory',
      cores: 1,
      threads: 1,
      memoryBytes: 0,
      budgetBytes: 2 ** 30,
    },
    dialer: network,
    random: seededRandom(1),
    clock,
    log,
    tickets: ticketsOf,
    session: {
      worker,
      fingerprint,
      compute: inlineCompute(engine, { o: 1e-4, a: 1e-5, b: 1e-8 }, undefined, 2 ** 24),
      dialling,
      listening,
      metrics,
      buffers: new BufferPool(),
      clock,
      log,
    },
    residentBytes: () => 0,
    collectGarbage: () => undefined,
  })
  return { agent, listening, dialling, clock }
}
