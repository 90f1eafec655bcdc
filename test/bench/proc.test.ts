import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { cpuBetween, parseMachineCpu, parseMemory, parseSchedule } from './harness/proc.ts'

describe('what Linux tells about processes', () => {
  it('reads resident memory and its peak', () => {
    const status = 'Name:\tnode\nVmPeak:\t 1584684 kB\nVmHWM:\t  310000 kB\nVmRSS:\t  300404 kB\nThreads:\t11\n'
    assert.deepEqual(parseMemory(status), { residentBytes: 300404 * 1024, peakBytes: 310000 * 1024 })
    assert.throws(() => parseMemory('Name:\tkthreadd\n'), /no VmRSS/)
  })

  it('reads time on a core and time in its queue', () => {
    assert.deepEqual(parseSchedule('1500000000 250000000 42\n'), { seconds: 1.5, queuedSeconds: 0.25 })
  })

  it('counts the whole machine as busy where it is neither idle nor waiting for a disk', () => {
    const stat = 'cpu  1000 100 200 99999 5000 10 20 30 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n'
    const { busySeconds, stolenSeconds } = parseMachineCpu(stat)
    assert.ok(Math.abs(busySeconds - 13.3) < 1e-9)
    assert.equal(stolenSeconds, 0.3)
  })

  it('tells sockets from arithmetic by the busiest thread that is not the main one', () => {
    const at = (seconds: number) => ({ seconds, queuedSeconds: seconds / 4 })
    const before = new Map([
      [7, at(1)],
      [8, at(10)],
    ])
    const after = new Map([
      [7, at(3)],
      [8, at(18)],
      [9, at(1)],
    ])
    assert.deepEqual(cpuBetween(7, before, after), { main: at(2), busiest: at(8), all: at(11) })
    const idle = { seconds: 0, queuedSeconds: 0 }
    assert.deepEqual(cpuBetween(7, before, before), { main: idle, busiest: idle, all: idle })
  })
})
