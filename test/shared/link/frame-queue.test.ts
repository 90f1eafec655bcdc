import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { FrameQueue } from '../../../shared/link/frame-queue.ts'

describe('frames that wait', () => {
  it('stop their source at a number or at a sum of bytes, and let it go on at half of that', async () => {
    const told: string[] = []
    const flow = { pause: () => told.push('pause'), resume: () => told.push('resume') }
    const queue = new FrameQueue(8, flow, 1000)
    for (let i = 0; i < 4; i++) queue.push(new Uint8Array(300))
    assert.deepEqual(told, ['pause'])
    await queue.take()
    await queue.take()
    assert.deepEqual(told, ['pause'])
    await queue.take()
    assert.deepEqual(told, ['pause', 'resume'])
    for (let i = 0; i < 7; i++) queue.push(new Uint8Array(1))
    assert.deepEqual(told, ['pause', 'resume', 'pause'])
    queue.discard()
    assert.deepEqual(told, ['pause', 'resume', 'pause', 'resume'])
    for (let i = 0; i < 3; i++) queue.push(new Uint8Array(300))
    assert.equal(queue.paused, false)
  })
})
