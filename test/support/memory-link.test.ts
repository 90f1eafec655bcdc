import assert from 'node:assert/strict'
import { it } from 'node:test'
import type { Link } from '../../shared/link/link.ts'
import { linkContract } from '../contract/link.contract.ts'
import { MemoryNetwork, memoryLinkPair } from './memory-link.ts'

const LIMITS = { maxFrameBytes: 1024, maxQueuedFrames: 4 }
const URL = 'ws://worker-1/link'

linkContract('a link in memory', async (limits, farLimits) => {
  const [near, far] = memoryLinkPair(limits, farLimits)
  return { near, far, release: async () => near.close() }
})

it('a network in memory connects who dials with who listens', async () => {
  const network = new MemoryNetwork()
  const accepted: Link[] = []
  const stop = network.register(URL, LIMITS, (link) => accepted.push(link))
  const link = await network.dial(URL, LIMITS, new AbortController().signal)
  await link.send(Uint8Array.of(1, 2, 3))
  assert.deepEqual(await accepted[0]?.receive(), Uint8Array.of(1, 2, 3))
  stop()
  await assert.rejects(network.dial(URL, LIMITS, new AbortController().signal), { code: 'dial_failed' })
  await assert.rejects(network.dial(URL, LIMITS, AbortSignal.abort()), { code: 'cancelled' })
})
