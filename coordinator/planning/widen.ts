/**
 * Blocks are made wider where it costs next to nothing: those for the decode node first, then those for later workers from
 * the tail on, since what the head makes passes most links. A ring's blocks all pass all links but one.
 */
import { spanTokens, type Wire } from '../../shared/plan.ts'
import type { Context } from './context.ts'
import { type Timed, time } from './evaluate.ts'
import { carriedSeconds, type Layout, rewired, type Wires } from './layout.ts'

export function widen(context: Context, timed: Timed): Timed {
  const { layout } = timed
  const widening = new Widening(context, timed)
  const places = layout.members.map((_, at) => at).toReversed()
  if (!widening.keepFirst('handoffWires', places)) widening.keepEach('handoffWires', places)
  if (layout.strategy === 'ring') widening.keepFirst('prefixWires', places)
  else widening.keepEach('prefixWires', places.slice(1))
  return widening.best
}

class Widening {
  best: Timed
  readonly #context: Context
  readonly #wider: readonly Wire[]
  readonly #narrow: Wire

  constructor(context: Context, timed: Timed) {
    this.#context = context
    this.best = onlyNeeded(timed, context)
    this.#narrow = timed.layout.handoffWires[0] ?? 'f32'
    this.#wider = context.wires.slice(0, context.wires.indexOf(this.#narrow))
  }

  /** All places together, as wide as it can afford. */
  keepFirst(kind: Wires, places: readonly number[]): boolean {
    return this.#wider.some((wire) => this.#keep(kind, places, wire))
  }

  /** Each place by itself, one after the other; prefixes up to the first that has to stay narrow. */
  keepEach(kind: Wires, places: readonly number[]): void {
    // Where all links are alike, what has been too much for one worker is too much for any that has as much to send.
    let tooMuch = Number.POSITIVE_INFINITY
    const learns = kind === 'handoffWires' && this.#context.network.alike
    const offered = (at: number, tried: number) =>
      this.#wider.find((wire, i) => i >= tried && this.#more(places[at]!, wire) < tooMuch)
    let [at, tried] = [0, 0]
    while (at < places.length) {
      const wire = offered(at, tried)
      if (wire === undefined && kind === 'prefixWires') return
      let end = at + 1
      if (tried === 0) while (end < places.length && offered(end, 0) === wire) end++
      const kept = wire === undefined ? end - at : this.#keepMost(kind, places.slice(at, end), wire)
      at += kept
      tried = 0
      if (wire === undefined || at === end) continue
      tried = this.#wider.indexOf(wire) + 1
      if (learns) tooMuch = this.#more(places[at]!, wire)
    }
  }

  /** How many of these can be wider, the first ones first. Wider blocks are never faster, so several are tried at once. */
  #keepMost(kind: Wires, places: readonly number[], wire: Wire): number {
    let [kept, tooMany, step] = [0, places.length + 1, 1]
    while (kept + 1 < tooMany) {
      const next = Math.min(kept + step, tooMany - 1)
      const good = this.#keep(kind, places.slice(kept, next), wire)
      if (good) kept = next
      else tooMany = next
      step = good ? 2 * step : Math.max(1, (tooMany - kept) >> 1)
    }
    return kept
  }

  #keep(kind: Wires, places: readonly number[], wire: Wire): boolean {
    const { limitSeconds } = this.best
    const wires = this.best.layout[kind].map((own, at) => (places.includes(at) ? wire : own))
    const layout: Layout = { ...this.best.layout, [kind]: wires }
    if (carriedSeconds(this.#context, layout) > limitSeconds) return false
    const next = time(this.#context, layout, limitSeconds, rewired(this.#context, layout, this.best.pipeline, kind))
    if (next.seconds > limitSeconds) return false
    this.best = next
    return true
  }

  /** Bytes of a layer. */
  #more(at: number, wire: Wire): number {
    const { wireBytes } = this.#context
    return spanTokens(this.best.layout.spans[at]!) * (wireBytes[wire] - wireBytes[this.#narrow])
  }
}

/** What is sent to nobody is not made narrow. */
function onlyNeeded(timed: Timed, context: Context): Timed {
  const { layout } = timed
  if (layout.members.length === 0 || (layout.strategy === 'ring' && layout.members.length > 1)) return timed
  return { ...timed, layout: { ...layout, prefixWires: layout.prefixWires.with(-1, context.wires[0]!) } }
}
