import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { stripVTControlCharacters } from 'node:util'
import { gantt } from '../../../coordinator/cli/gantt.ts'
import { chromeTrace } from '../../../coordinator/trace/chrome.ts'
import { tracedReport } from '../../support/sample-trace.ts'

const trace = chromeTrace(tracedReport())

describe('the Gantt chart', () => {
  it('draws every worker, its waits and what it receives, and the first tokens', () => {
    assert.equal(`\n${gantt(trace, { width: 80, colour: false })}\n`, SNAPSHOT)
  })

  it('is the same in colour', () => {
    const coloured = gantt(trace, { width: 80, colour: true })
    assert.ok(coloured.includes('\x1b[31m.\x1b[0m'))
    assert.equal(`\n${stripVTControlCharacters(coloured)}\n`, SNAPSHOT)
  })

  it('is as wide as the terminal, down to a least width', () => {
    for (const width of [50, 80, 133]) {
      const lines = gantt(trace, { width, colour: false }).split('\n').slice(0, -1)
      assert.equal(Math.max(...lines.map((line) => line.length)), width)
    }
    assert.ok(gantt(trace, { width: 1, colour: false }).includes('│'))
  })

  it('does not let a long answer squeeze the prefill', () => {
    const last = { ph: 'X', name: 'decode', pid: 4, tid: 1, ts: 3_000_000, dur: 97_000_000 } as const
    const chart = gantt({ ...trace, traceEvents: [...trace.traceEvents, last] }, { width: 80, colour: false })
    assert.equal(`\n${chart}\n`, SNAPSHOT)
  })

  it('of nothing is an empty one', () => {
    assert.match(gantt({ traceEvents: [], displayTimeUnit: 'ms' }, { width: 80, colour: false }), /└┴/)
  })
})

const SNAPSHOT = `
queue      │~~~~~~~~~~~~~                                                      │
w1         │            ▒▒▒▒▒██████████░░░░░▒▒▒▒▒                              │
w2         │            ▒▒▒▒▒█████...............█████████░░░░░▒▒▒▒▒▒          │
  receives │                             ────────                              │
d1         │            ..............................................▒░░▪▪▪▪▪▪│
  receives │                 ───                  ─                   ─        │
           └┴───────────────────────┴───────────────────────┴──────────────────┘
            0                       1 s                     2 s
~ queue  ▒ project  █ attend  ░ mix  . wait  ─ receive  ▪ decode
`
