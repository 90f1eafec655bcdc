import { type LinkFacts, linkKey, type PlanFacts } from '../../../coordinator/planning/facts.ts'
import { planPrefill } from '../../../coordinator/planning/plan-prefill.ts'
import { asWorkerId } from '../../../shared/ids.ts'
import { WIRES, type Wire } from '../../../shared/plan.ts'
import type { Cost } from '../../../shared/protocol/control.ts'
import { columns, spreadText } from '../harness/report.ts'
import { spreadOf } from '../harness/statistics.ts'
import { PRESETS } from '../models/presets.ts'
import { defineSuite } from '../suite.ts'

/** How long a decision takes, without any cluster. */
export const plannerSuite = defineSuite({
  name: 'planner',
  describe: 'Milliseconds that the planner takes for a prompt of 32768 tokens over many workers',
  options: {
    rounds: { type: 'number', default: 60, describe: 'Plans of each kind' },
  },
  async run({ rounds }) {
    const kinds = [7, 16, 64].flatMap((count) =>
      [true, false].flatMap((alike) =>
        WIRES.filter((wire) => wire !== 'f16').map((wire) => ({
          count,
          alike,
          wire,
          facts: factsOf(count, alike, wire),
        })),
      ),
    )
    // In turns, so that what slows the machine for a while, and the compiler at first, slows all kinds.
    const plans = Array.from({ length: rounds }, () => kinds.map(({ facts }) => timedPlan(facts)))
    const found = kinds.map(({ count, alike, wire }, kind) => ({
      count,
      alike,
      wire,
      candidates: plans[0]?.[kind]?.candidates ?? 0,
      decided: spreadOf(plans.map((round) => round[kind]!.decided)),
      explained: spreadOf(plans.map((round) => round[kind]!.explained)),
    }))
    const rows = found.map(({ count, alike, wire, candidates, decided, explained }) => [
      String(count),
      alike ? 'alike, 10 Gbit/s' : 'between 0.25 and 10 Gbit/s',
      wire,
      spreadText(decided),
      `${spreadText(explained)}, ${candidates} candidates`,
    ])
    const title = 'Milliseconds of a plan: median (least-most)'
    const head = columns('workers, links, narrowest precision, decided, with what binds every candidate')
    return { parts: [{ title, head, rows }], data: { found } }
  },
})

/** Milliseconds until the plan is there, and until what limits every candidate is known too. */
function timedPlan(facts: PlanFacts) {
  const started = performance.now()
  const planned = planPrefill(facts)
  const decided = performance.now() - started
  const candidates = planned.candidates.length
  return { candidates, decided, explained: performance.now() - started }
}

const SHAPE = PRESETS.llama8b

/** Of a worker that arithmetic alone limits. */
function costOf(flops: number): Cost {
  const { hidden, heads, kvHeads, headDim, ffn } = SHAPE
  const linear = 2 * hidden * (2 * heads * headDim + 2 * kvHeads * headDim + 3 * ffn)
  return { o: 1e-4, a: linear / flops, b: (4 * heads * headDim) / flops }
}

/** Workers of 1, 2, ... TFLOP/s, each on a host of its own. */
function factsOf(count: number, alike: boolean, narrowestWire: Wire): PlanFacts {
  const place = { cores: 8, threads: 8, runs: 0 }
  const workers = Array.from({ length: count }, (_, i) => ({
    ...place,
    id: asWorkerId(`w${i}`),
    host: `h${i}`,
    cost: costOf(1e12 * (i + 1)),
  }))
  const decode = [{ ...place, id: asWorkerId('d'), host: 'd', cost: costOf(1e12) }]
  const names = [...workers, ...decode].map(({ id }) => id)
  const rate = (i: number, j: number): number => (alike ? 1.1e9 : 1.1e9 / (1 + ((i * 7 + j * 3) % 40)))
  const links = new Map<string, LinkFacts>()
  for (const [i, from] of names.entries())
    for (const [j, to] of names.entries())
      if (i !== j) links.set(linkKey(from, to), { bytesPerSecond: rate(i, j), rttSeconds: 2e-4 })
  return { shape: SHAPE, promptTokens: 32_769, workers, decode, links, narrowestWire }
}
