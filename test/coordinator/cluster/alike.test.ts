import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { pooledCosts } from '../../../coordinator/cluster/alike.ts'
import type { PrefillWorker } from '../../../coordinator/cluster/state.ts'
import { asWorkerId } from '../../../shared/ids.ts'
import type { Cost } from '../../../shared/protocol/control.ts'

const COST: Cost = { o: 1e-4, a: 1e-5, b: 1e-9, c: 1e-7 }

const times = ({ o, a, b, c = 0 }: Cost, by: number): Cost => ({ o: o * by, a: a * by, b: b * by, c: c * by })

const worker = (name: string, cost: Cost, of: Partial<PrefillWorker> = {}): PrefillWorker => ({
  id: asWorkerId(name),
  role: 'prefill',
  state: 'ready',
  engine: 'onnx',
  precision: 'f32',
  host: 'h',
  url: '',
  cores: 8,
  threads: 1,
  memoryBytes: 16e9,
  budgetBytes: 8e9,
  cost,
  seen: { all: 0, alone: 0, shared: 0 },
  lastSeen: 0,
  runs: [],
  reserved: new Map(),
  kept: [],
  ...of,
})

/** Workers of one kind, this much slower than `COST` each. */
const kind = (...slower: number[]): PrefillWorker[] => slower.map((by, i) => worker(`w${i}`, times(COST, by)))

const linear = (workers: readonly PrefillWorker[]): number[] => workers.map(({ cost }) => cost.a / COST.a)

function near(actual: readonly number[], expected: readonly number[], tolerance: number): void {
  assert.equal(actual.length, expected.length)
  for (const [i, value] of actual.entries())
    assert.ok(Math.abs(value / expected[i]! - 1) < tolerance, `${actual}, not ${expected}`)
}

describe('pooled costs', () => {
  it('are the same for workers that differ by no more than chance', () => {
    near(linear(pooledCosts(kind(1, 1.05, 0.95, 1.08, 0.92))), [1, 1, 1, 1, 1], 1e-9)
  })

  it('stay what was measured where workers truly differ', () => {
    near(linear(pooledCosts(kind(1, 2, 4))), [1, 2, 4], 0.03)
    near(linear(pooledCosts(kind(1, 1, 1, 1, 1, 1, 1, 3))), [1, 1, 1, 1, 1, 1, 1, 3], 0.02)
  })

  it('take less for chance between hosts than within one', () => {
    const pair = (host: string) => pooledCosts([worker('w', COST), worker('v', times(COST, 1.12), { host })])
    near(linear(pair('h')), [1.06, 1.06], 1e-3)
    const [w, v] = linear(pair('x'))
    assert.ok(w! > 1.01 && w! < v! && v! < 1.11, `${w} and ${v}`)
    near(linear(pooledCosts([worker('w', COST), worker('v', times(COST, 1.5), { host: 'x' })])), [1, 1.5], 0.02)
  })

  it('leave a worker alone that has nobody like it', () => {
    const others: Partial<PrefillWorker>[] = [{ engine: 'tfjs' }, { threads: 2 }, { precision: 'int8' }]
    for (const other of others) {
      const pair = [worker('w', COST), worker('v', times(COST, 1.1), other)]
      assert.deepEqual(pooledCosts(pair), pair)
    }
  })

  it('keep the mean, the order and what else is known', () => {
    const slower = fc.array(fc.double({ min: 0.1, max: 10, noNaN: true }), { minLength: 1, maxLength: 20 })
    fc.assert(
      fc.property(slower, (each) => {
        const before = kind(...each)
        const after = pooledCosts(before)
        const sum = (all: readonly number[]): number => all.reduce((total, own) => total + own, 0)
        near([sum(linear(after))], [sum(each)], 1e-9)
        const ranked = [...each.keys()].sort((i, j) => each[i]! - each[j]!)
        for (const [at, i] of ranked.entries())
          if (at > 0) assert.ok(linear(after)[i]! >= linear(after)[ranked[at - 1]!]! - 1e-9)
        assert.deepEqual(
          after.map(({ cost: _, ...rest }) => rest),
          before.map(({ cost: _, ...rest }) => rest),
        )
      }),
    )
  })

  it('beside others are taken from those of its kind by a worker that has never been beside any', () => {
    const sharedCost = times(COST, 1.5)
    const [w, v] = pooledCosts([worker('w', COST, { sharedCost }), worker('v', COST)])
    near([w!.sharedCost!.a, v!.sharedCost!.a, v!.cost.a], [sharedCost.a, sharedCost.a, COST.a], 1e-9)
  })

  it('may lack what nobody has measured', () => {
    const { o, a, b } = COST
    const bare = { o, a, b }
    assert.deepEqual(
      pooledCosts([worker('w', bare), worker('v', bare)]).map(({ cost }) => cost),
      [bare, bare],
    )
  })
})
