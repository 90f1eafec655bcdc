import assert from 'node:assert/strict'
import { it } from 'node:test'
import type { Ask } from './asks.ts'
import type { Asked, Outcome } from './client.ts'
import { drawFault, FAULT_NAMES, faultName, type Target } from './faults.ts'
import { addedBy, deathsIn, judge, mistakeOf } from './judge.ts'
import { Draws } from './random.ts'
import type { Done } from './storm.ts'

const RIGHT = ['a', 'b', 'c', 'd', 'e']

it('names what is wrong with an answer', () => {
  assert.equal(mistakeOf(RIGHT, [...RIGHT]), undefined)
  assert.equal(mistakeOf(RIGHT, ['a', 'b', 'b', 'c', 'd', 'e']), 'repeated')
  assert.equal(mistakeOf(RIGHT, ['a', 'b', 'c', 'a', 'b', 'c', 'd', 'e']), 'repeated')
  assert.equal(mistakeOf(RIGHT, [...RIGHT, 'e']), 'repeated')
  assert.equal(mistakeOf(RIGHT, ['a', 'd', 'e']), 'missing')
  assert.equal(mistakeOf(RIGHT, ['a', 'b', 'c']), 'missing')
  assert.equal(mistakeOf(RIGHT, ['a', 'b', 'x', 'd', 'e']), 'wrong')
  assert.equal(mistakeOf(RIGHT, ['a', 'b', 'b', 'c']), 'wrong')
})

const account = { run: 'r', workers: [{ id: 'worker-1', tokens: 100 }], decode: 'decode-1' }
const answered = (tokens: readonly string[], of: object = {}): Outcome => ({
  kind: 'answered',
  tokens,
  text: tokens.join(''),
  account: { ...account, ...of },
})
const asked = (outcome: Outcome, from: number, to: number): Asked => ({
  ask: { id: 7 } as Ask,
  outcome,
  from,
  to,
  retries: 0,
})
const killed = (target: string, from: number, to: number): Done => ({
  name: 'kill prefill',
  fault: { kind: 'kill', target, seconds: 1 },
  from,
  to,
})
const references = new Map([[7, { tokens: RIGHT, text: 'abcde', seconds: 2 }]])

it('holds a fault against those requests that it lasted into and whose worker it was', () => {
  const done = [killed('worker-1', 10, 12), killed('worker-2', 10, 12)]
  const [during, before, other] = judge(
    [
      asked(answered(RIGHT), 11, 16),
      asked(answered(RIGHT), 5, 9),
      asked(answered(RIGHT, { workers: [{ id: 'worker-3', tokens: 9 }] }), 11, 14),
    ],
    references,
    done,
  )
  assert.deepEqual(during?.faults, [done[0]])
  assert.equal(during?.added, 3)
  assert.deepEqual([before?.faults, other?.faults], [[], []])
  assert.deepEqual(addedBy('kill prefill', [during!, before!], done), {
    name: 'kill prefill',
    faults: 2,
    touched: 1,
    median: 3,
    p99: 3,
  })
})

it('wants what was told before an error to be the beginning of the right answer', () => {
  const lost = (tokens: readonly string[]): Outcome => ({ kind: 'lost', code: 'worker_lost', message: '', tokens })
  const mistakes = judge([asked(lost(['a', 'b']), 0, 1), asked(lost(['a', 'c']), 0, 1)], references, []).map(
    ({ mistake }) => mistake,
  )
  assert.deepEqual(mistakes, [undefined, 'wrong'])
})

it('compares text too, for it may be put together wrongly from right tokens', () => {
  const outcome = { ...answered(RIGHT), text: 'abcd' } as Outcome
  assert.equal(judge([asked(outcome, 0, 1)], references, [])[0]?.mistake, 'wrong')
})

it('takes the cost of a death from requests whose account says that the dead was replaced', () => {
  const repairs = [{ worker: 'worker-1', code: 'worker_lost', tokens: 50 }]
  const workers = [
    { id: 'worker-1', tokens: 100 },
    { id: 'worker-2', tokens: 100, compute_seconds: 2 },
  ]
  const judged = judge(
    [asked(answered(RIGHT, { repairs, workers }), 10, 15), asked(answered(RIGHT), 10, 15)],
    references,
    [killed('worker-1', 11, 13)],
  )
  assert.deepEqual(deathsIn(judged), [{ added: 3, lostSeconds: 1 }])
})

it('draws every kind of fault, the same from the same seed, and spares half of each role', () => {
  const targets = (['prefill', 'prefill', 'prefill', 'prefill', 'decode', 'decode'] as const).map(
    (role, i): Target => ({ name: `${role}-${i}`, role, sound: i !== 0 }),
  )
  const draw = (seed: number) => {
    const draws = new Draws(seed, 'faults')
    return Array.from({ length: 2000 }, () => drawFault(draws, targets))
  }
  const faults = draw(1)
  const roleOf = (name: string) => targets.find((target) => target.name === name)!.role
  const names = new Set(
    faults.flatMap((fault) => (fault === undefined ? [] : [faultName(fault, roleOf(fault.target))])),
  )
  assert.deepEqual([...names].sort(), [...FAULT_NAMES].sort())
  assert.deepEqual(draw(1), faults)
  assert.notDeepEqual(draw(2), faults)
  for (const fault of faults)
    if (fault !== undefined && fault.seconds > 0) assert.notEqual(fault.target, 'prefill-0', 'it suffers already')
  // With two of four down, nothing that lasts is done to the other two.
  const few = targets.map((target, i) => ({ ...target, sound: target.role === 'decode' || i > 1 }))
  const draws = new Draws(3, 'faults')
  for (let i = 0; i < 500; i++) {
    const fault = drawFault(draws, few)
    if (fault !== undefined && roleOf(fault.target) === 'prefill') assert.equal(fault.seconds, 0)
  }
})
