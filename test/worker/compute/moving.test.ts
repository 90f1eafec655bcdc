import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { movingSeconds, readCpu, spentBetween } from '../../../worker/compute/moving.ts'

const near = (actual: number, expected: number) => assert.ok(Math.abs(actual - expected) < 1e-9, `${actual}`)

test('on a core of its own for all, what sockets spend is taken from arithmetic', () => {
  near(movingSeconds({ arithmetic: 9, sockets: 1, all: 10 }, { computeSeconds: 10, waitSeconds: 0 }), 1)
})

test('with a core to spare, sockets take nothing', () => {
  near(movingSeconds({ arithmetic: 10, sockets: 5, all: 15 }, { computeSeconds: 10, waitSeconds: 0 }), 0)
})

test('under a quota all stand still alike, so both parts take longer than their time on the core', () => {
  near(movingSeconds({ arithmetic: 9, sockets: 1, all: 10 }, { computeSeconds: 25, waitSeconds: 0 }), 2.5)
})

test('time that other programs have on the core is not of the sockets', () => {
  const seconds = movingSeconds({ arithmetic: 8, sockets: 1, all: 9 }, { computeSeconds: 12, waitSeconds: 0 })
  assert.ok(seconds < 1.5, String(seconds))
})

test('while a run waits, sockets hold nothing up', () => {
  near(movingSeconds({ arithmetic: 9, sockets: 2, all: 11 }, { computeSeconds: 10, waitSeconds: 10 }), 1)
})

test('it is never more than the run has computed, nor less than nothing', () => {
  const seconds = fc.double({ min: 0, max: 1e3, noNaN: true })
  fc.assert(
    fc.property(
      seconds,
      seconds,
      seconds,
      seconds,
      seconds,
      (arithmetic, sockets, other, computeSeconds, waitSeconds) => {
        const spent = { arithmetic, sockets, all: arithmetic + sockets + other }
        const moving = movingSeconds(spent, { computeSeconds, waitSeconds })
        assert.ok(moving >= 0 && moving <= computeSeconds, String(moving))
      },
    ),
    { seed: 4 },
  )
})

test('the system tells of this thread, of the main one and of all', { skip: process.platform !== 'linux' }, () => {
  const before = readCpu()
  assert.ok(before !== undefined)
  const until = process.cpuUsage().user + 50_000
  while (process.cpuUsage().user < until);
  const spent = spentBetween(before, readCpu()!)
  // A test runs on the main thread.
  assert.equal(spent.arithmetic, spent.sockets)
  assert.ok(spent.sockets > 0.02 && spent.all > 0.04, JSON.stringify(spent))
})
