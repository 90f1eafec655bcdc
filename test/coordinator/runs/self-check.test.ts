import assert from 'node:assert/strict'
import { it } from 'node:test'
import { drawChecks, tolerances } from '../../../coordinator/runs/self-check.ts'
import { asWorkerId } from '../../../shared/ids.ts'
import type { Plan } from '../../../shared/plan.ts'
import { seededRandom } from '../../support/random.ts'

const part = (worker: string, start: number, end: number) => ({
  worker: asWorkerId(worker),
  spans: [{ start, end }],
  computeSeconds: 1,
  prefixWire: 'f32' as const,
  handoffWire: 'f16' as const,
})
const plan: Plan = {
  strategy: 'chain',
  promptTokens: 2501,
  prefillTokens: 2500,
  workers: [part('one', 0, 1500), part('two', 1500, 2500)],
  decode: asWorkerId('decode'),
  blockTokens: 500,
  predictedTtftSeconds: 1,
  bound: 'compute',
  boundBy: 'one computes',
}
const f32 = () => 'f32' as const
const draw = (rate: number, random = seededRandom(1)) => drawChecks(plan, rate, f32, random)

it('draws no block, or each of them, at the ends of the rate', () => {
  assert.deepEqual(draw(0), [])
  assert.deepEqual(
    draw(1).map(({ worker, starts }) => [worker, starts]),
    [
      ['one', [0, 500, 1000]],
      ['two', [1500, 2000]],
    ],
  )
})

it('draws each block as often as the rate says, by itself', () => {
  const random = seededRandom(7)
  const drawn = new Map<number, number>()
  for (let i = 0; i < 4000; i++)
    for (const start of draw(0.25, random).flatMap(({ starts }) => starts))
      drawn.set(start, (drawn.get(start) ?? 0) + 1)
  assert.equal(drawn.size, 5)
  for (const times of drawn.values()) assert.ok(Math.abs(times / 4000 - 0.25) < 0.03, String(times))
})

it('allows for the narrowest wire of all, since a check attends to what others sent', () => {
  const { first, deeper } = draw(1)[0]!
  assert.deepEqual({ first, deeper }, tolerances('f16', 'f32', 'f32'))
})

it('is stricter where nothing rounds, and strictest in the first layer', () => {
  const exact = tolerances('f32', 'f32', 'f32')
  const rounded = tolerances('f32', 'int8', 'int8')
  const mixed = tolerances('f32', 'int8', 'f32')
  assert.ok(exact.deeper < rounded.first && rounded.first < rounded.deeper && rounded.deeper < mixed.first)
})
