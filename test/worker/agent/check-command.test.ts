import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { DecodeAssignment, PrefillAssignment, Repair, RunWorker } from '../../../shared/protocol/control.ts'
import { checkDecode, checkPrefill, checkRepair } from '../../../worker/agent/check-command.ts'

const shape = { layers: 2, contextLength: 70_000 }
const maker = (worker: string, start: number, end: number): RunWorker => ({
  worker,
  epoch: 1,
  url: '',
  spans: [{ start, end }],
  prefixWire: 'f32',
  handoffWire: 'f32',
})
const workers = [maker('w1', 0, 8), maker('w2', 8, 12)]
const tickets = ['w1', 'w2'].map((source) => ({ source, ticket: 't' }))
const layers = { from: 0, to: 2 }

const prefill: PrefillAssignment = {
  kind: 'prefill',
  run: 'r',
  strategy: 'chain',
  rank: 1,
  workers,
  decode: 'd1',
  decodeUrl: '',
  blockTokens: 4,
  promptTokens: 13,
  layers,
  tickets,
}
const decode: DecodeAssignment = {
  kind: 'decode',
  run: 'r',
  epoch: 1,
  workers,
  blockTokens: 4,
  prefillTokens: 12,
  promptTokens: 13,
  maxTokens: 69_988,
  stopTokens: [],
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 1 },
  wantLogits: false,
  checks: [],
  tickets,
}
const repair: Repair = { kind: 'repair', run: 'r', part: 'r.1', by: maker('w1', 8, 12), layers, ticket: 't' }

const bad = { code: 'frame_bad_schema' }

describe('commands of a coordinator', () => {
  it('pass if they fit the model and themselves', () => {
    checkPrefill(prefill, 4, shape)
    checkPrefill({ ...prefill, rank: 0, tickets: [] }, 8, shape)
    checkDecode(decode, shape)
    checkRepair(repair, shape)
  })

  it('may be longer than a short context, where rotations go on', () => {
    checkPrefill({ ...prefill, promptTokens: 611 }, 4, { ...shape, contextLength: 152 })
  })

  it('are refused with positions that the model does not have, before anything is made for them', () => {
    const endless = maker('w2', 8, 0x7fffffff)
    assert.throws(() => checkPrefill({ ...prefill, promptTokens: 70_001 }, 4, shape), bad)
    assert.throws(() => checkPrefill({ ...prefill, workers: [workers[0]!, endless] }, 4, shape), bad)
    assert.throws(() => checkDecode({ ...decode, workers: [workers[0]!, endless] }, shape), bad)
    assert.throws(() => checkDecode({ ...decode, maxTokens: 69_989 }, shape), bad)
    assert.throws(() => checkRepair({ ...repair, by: endless }, shape), bad)
  })

  it('are refused with positions of two workers, or with two parts of one', () => {
    const twice = [workers[0]!, maker('w2', 7, 12)]
    assert.throws(() => checkPrefill({ ...prefill, workers: twice }, 5, shape), bad)
    assert.throws(() => checkDecode({ ...decode, workers: [workers[0]!, maker('w1', 8, 12)] }, shape), bad)
  })

  it('are refused with layers, ranks or tokens that there are not', () => {
    assert.throws(() => checkPrefill({ ...prefill, layers: { from: 0, to: 3 } }, 4, shape), bad)
    assert.throws(() => checkRepair({ ...repair, layers: { from: 0, to: 2 ** 40 } }, shape), bad)
    assert.throws(() => checkPrefill({ ...prefill, rank: 2 }, 4, shape), bad)
    assert.throws(() => checkPrefill(prefill, 5, shape), bad)
  })

  it('are refused without a ticket for where KV is to be fetched', () => {
    const refused = { code: 'ticket_refused' }
    assert.throws(() => checkPrefill({ ...prefill, tickets: tickets.slice(1) }, 4, shape), refused)
    assert.throws(() => checkDecode({ ...decode, tickets: tickets.slice(1) }, shape), refused)
  })
})
