import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { describe, it } from 'node:test'
import { computeBound, linkBound, longestCompute } from './harness/bounds.ts'
import { DelayLine, Pace } from './harness/delay-line.ts'
import { bucketArguments, linkText, parseLinkShape } from './harness/link-shape.ts'
import { startProxy } from './harness/proxy.ts'

describe('links between simulated hosts', () => {
  it('are written as a rate, a delay, or both', () => {
    assert.deepEqual(parseLinkShape('10g'), { name: '10g', bitsPerSecond: 1e10 })
    assert.deepEqual(parseLinkShape('2.5g'), { name: '2.5g', bitsPerSecond: 2.5e9 })
    assert.deepEqual(parseLinkShape('20ms'), { name: '20ms', delaySeconds: 0.02 })
    assert.deepEqual(parseLinkShape('100m+5ms'), { name: '100m+5ms', bitsPerSecond: 1e8, delaySeconds: 0.005 })
    assert.deepEqual(parseLinkShape('free'), { name: 'free' })
    for (const wrong of ['', 'fast', '10', '-1g', '10k']) assert.throws(() => parseLinkShape(wrong), /is written as/)
    assert.equal(linkText(parseLinkShape('100m+5ms')), '100 Mbit/s, 5 ms one way')
  })

  it('let a millisecond’s worth pass at once, and never less than a large packet', () => {
    assert.equal(bucketArguments(1e9)[4], '125000')
    assert.equal(bucketArguments(1e7)[4], '16384')
  })

  it('deliver in order, each piece after the delay', () => {
    const line = new DelayLine(0.5)
    line.push(Buffer.from('a'), 1)
    line.push(Buffer.from('bc'), 1.25)
    assert.deepEqual(line.take(1.4), { due: [], next: 1.5 })
    assert.deepEqual(line.take(1.5), { due: [Buffer.from('a')], next: 1.75 })
    assert.equal(line.heldBytes, 2)
    assert.deepEqual(line.take(2), { due: [Buffer.from('bc')], next: undefined })
    assert.equal(line.heldBytes, 0)
  })

  it('share a rate between connections, and save up nothing while idle', () => {
    const pace = new Pace(100)
    const [one, other] = [new DelayLine(0, pace), new DelayLine(1, pace)]
    one.push(Buffer.alloc(50), 10)
    other.push(Buffer.alloc(50), 10)
    assert.equal(one.take(10).next, 10.5)
    assert.equal(other.take(10).next, 12)
    assert.equal(pace.reserve(100, 20), 21)
  })

  it('carry bytes both ways through a proxy, and close as the two ends do', async () => {
    const echo = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket))
    echo.listen(0, '127.0.0.1')
    await once(echo, 'listening')
    const target = { host: '127.0.0.1', port: (echo.address() as AddressInfo).port }
    const proxy = await startProxy({ listen: { host: '127.0.0.1', port: 0 }, target, delaySeconds: 0.001 })
    try {
      const sent = Buffer.alloc(2 ** 20, 'headrace')
      const socket = connect({ host: '127.0.0.1', port: (proxy.address() as AddressInfo).port })
      socket.end(sent)
      const pieces: Buffer[] = []
      for await (const piece of socket as AsyncIterable<Buffer>) pieces.push(piece)
      assert.ok(Buffer.concat(pieces).equals(sent))
    } finally {
      proxy.close()
      echo.close()
    }
  })
})

describe('what no plan can beat', () => {
  const worker = (id: string, compute_seconds: number) => ({ id, spans: [], tokens: 1, compute_seconds })
  const prefill = {
    strategy: 'chain',
    decode: 'd',
    queue_seconds: 0,
    ttft_seconds: 1,
    predicted_ttft_seconds: 1,
    workers: [worker('a', 2), worker('b', 3)],
    links: [
      { from: 'a', to: 'b', bytes: 100 },
      { from: 'a', to: 'd', bytes: 100 },
      { from: 'b', to: 'd', bytes: 300 },
    ],
  }

  it('is the work over the speed', () => {
    assert.equal(computeBound(7, [1, 0.5, 0.25]), 4)
    assert.equal(longestCompute({ prefill }), 3)
  })

  it('is the busiest end of a link', () => {
    assert.equal(linkBound({ prefill }, 100), 4)
    const { links, ...without } = prefill
    assert.equal(linkBound({ prefill: without }, 100), 0)
  })
})
