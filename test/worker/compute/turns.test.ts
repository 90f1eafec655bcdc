import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { HeadraceError } from '../../../shared/errors.ts'
import { type Turn, Turns } from '../../../worker/compute/turns.ts'
import { ManualClock } from '../../support/manual-clock.ts'

/** Time passes only while somebody computes, unless a test lets it. */
class Thread {
  readonly clock = new ManualClock()
  readonly turns = new Turns(this.clock, () => Promise.resolve())
  /** Who computed, in order. */
  readonly log: string[] = []
  readonly secondsOf = new Map<string, number>()
  #computing = false

  open(signal: AbortSignal = new AbortController().signal): Turn {
    return this.turns.open(signal)
  }

  async piece(name: string, turn: Turn, seconds = 1): Promise<void> {
    await turn.take()
    assert.ok(!this.#computing, 'one computes at a time')
    this.#computing = true
    await Promise.resolve() // an engine's call is asynchronous too
    this.clock.advance(seconds)
    this.#computing = false
    this.log.push(name)
    this.secondsOf.set(name, (this.secondsOf.get(name) ?? 0) + seconds)
  }

  async pieces(name: string, turn: Turn, count: number, seconds = 1): Promise<void> {
    for (let i = 0; i < count; i++) await this.piece(name, turn, seconds)
    turn.close()
  }
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('turns', () => {
  it('go to the prefill that came first, whatever the order of asking', async () => {
    const thread = new Thread()
    const [first, second, third] = [thread.open(), thread.open(), thread.open()]
    await Promise.all([thread.pieces('c', third, 2), thread.pieces('b', second, 2), thread.pieces('a', first, 2)])
    assert.deepEqual(thread.log, ['a', 'a', 'b', 'b', 'c', 'c'])
  })

  it('go to a later prefill while the earlier one waits for blocks, until it does not', async () => {
    const thread = new Thread()
    const [first, second] = [thread.open(), thread.open()]
    await thread.piece('a', first)
    first.rest()
    await thread.piece('b', second)
    const more = thread.pieces('b', second, 3)
    await thread.piece('a', first)
    await thread.pieces('a', first, 1)
    await more
    assert.deepEqual(thread.log, ['a', 'b', 'a', 'a', 'b', 'b', 'b'])
  })

  it('let messages in before they are given, so that a block that came just now counts', async () => {
    const clock = new ManualClock()
    let deliver = (): void => undefined
    const turns = new Turns(clock, async () => deliver())
    const [first, second] = [turns.open(new AbortController().signal), turns.open(new AbortController().signal)]
    const order: string[] = []
    deliver = () => {
      deliver = () => undefined
      first.take().then(() => order.push('first'), assert.fail)
    }
    const later = second.take().then(() => order.push('second'))
    await settled()
    first.close()
    await later
    assert.deepEqual(order, ['first', 'second'])
  })

  it('count the seconds that a run had, and none that others had', async () => {
    const thread = new Thread()
    const [first, second] = [thread.open(), thread.open()]
    const later = thread.piece('b', second, 3)
    await thread.piece('a', first, 5)
    first.rest()
    await later
    second.rest()
    await thread.piece('a', first, 2)
    assert.equal(first.seconds, 7, 'with the piece that it still has')
    first.close()
    thread.clock.advance(100)
    assert.deepEqual([first.seconds, second.seconds], [7, 3])
  })

  it('end with the coded reason for a run that is cancelled, and go on for the others', async () => {
    const thread = new Thread()
    const controller = new AbortController()
    const [first, second] = [thread.open(controller.signal), thread.open()]
    const reason = new HeadraceError('cancelled', 'the client left')
    await second.take()
    const refused = assert.rejects(first.take(), reason)
    controller.abort(reason)
    await refused
    await assert.rejects(first.take(), reason)
    first.close()
    await thread.pieces('b', second, 2)
    assert.deepEqual(thread.log, ['b', 'b'])
  })

  it('pass on when a run ends while it has one', async () => {
    const thread = new Thread()
    const [first, second] = [thread.open(), thread.open()]
    await first.take()
    const later = thread.piece('b', second)
    first.close()
    await later
    assert.deepEqual(thread.log, ['b'])
  })

  it('alternate between answers', async () => {
    const thread = new Thread()
    const answers = ['a', 'b', 'c'].map((name) => ({ name, turn: thread.open() }))
    for (const { turn } of answers) turn.decode()
    await Promise.all(answers.map(({ name, turn }) => thread.pieces(name, turn, 3)))
    assert.deepEqual(thread.log.join(''), 'abcabcabc')
  })

  for (const { what, piece, step } of [
    { what: 'long pieces', piece: 10, step: 1 },
    { what: 'short pieces', piece: 1, step: 3 },
    { what: 'pieces shorter than the clock can see', piece: 0, step: 0 },
  ])
    it(`give a prefill a third of the time beside an answer, and the answer the first of it, in ${what}`, async () => {
      const thread = new Thread()
      const [prefill, answer] = [thread.open(), thread.open()]
      answer.decode()
      const pieces = 30
      const steps = piece === 0 ? 2 * pieces : (2 * pieces * piece) / step
      const both = [thread.pieces('prefill', prefill, pieces, piece), thread.pieces('answer', answer, steps, step)]
      await Promise.all(both)
      assert.equal(thread.log[0], 'answer')
      const half = thread.log.slice(0, thread.log.length / 2)
      const share = (name: string, each: number): number => half.filter((who) => who === name).length * (each || 1)
      const ratio = share('answer', step) / share('prefill', piece)
      assert.ok(Math.abs(ratio - 2) < 0.5, `${ratio}`)
    })

  it('owe nothing to a prefill for the time in which it did not ask', async () => {
    const thread = new Thread()
    const [prefill, answer] = [thread.open(), thread.open()]
    answer.decode()
    for (let i = 0; i < 50; i++) await thread.piece('answer', answer)
    const prefilling = thread.pieces('prefill', prefill, 20)
    await thread.pieces('answer', answer, 6)
    await prefilling
    const contended = thread.log.slice(50, 59).join(' ')
    assert.equal(contended.match(/prefill prefill prefill/), null, contended)
  })
})

/** A run of a random history: pieces of arithmetic and waits for somebody else's blocks. */
const history = fc.record({
  answers: fc.boolean(),
  steps: fc.array(fc.record({ seconds: fc.integer({ min: 0, max: 9 }), waits: fc.integer({ min: 0, max: 3 }) }), {
    minLength: 1,
    maxLength: 12,
  }),
})

describe('any runs together', () => {
  it('all end, and a prefill never computes while an earlier one that is ready does not', () =>
    fc.assert(
      fc.asyncProperty(fc.array(history, { minLength: 1, maxLength: 6 }), async (histories) => {
        const clock = new ManualClock()
        const turns = new Turns(clock, settled)
        const ready = new Set<number>()
        let pieces = 0
        const run = async (index: number, { answers, steps }: (typeof histories)[number]): Promise<void> => {
          const turn = turns.open(new AbortController().signal)
          if (answers) turn.decode()
          for (const { seconds, waits } of steps) {
            turn.rest()
            for (let i = 0; i < waits; i++) await settled()
            if (!answers) ready.add(index)
            await turn.take()
            if (!answers) assert.equal(Math.min(...ready), index)
            ready.delete(index)
            clock.advance(seconds)
            pieces++
          }
          turn.close()
        }
        await Promise.all(histories.map((of, index) => run(index, of)))
        assert.equal(
          pieces,
          histories.reduce((sum, { steps }) => sum + steps.length, 0),
        )
      }),
      { seed: 20_260_801, numRuns: 200 },
    ))

  it('wait no longer than the others let them: a prefill beside answers that never end', () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 }),
        fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 20 }),
        async (stepSeconds, pieces) => {
          const thread = new Thread()
          const prefill = thread.open()
          let over = false
          const answers = stepSeconds.map(async (seconds, i) => {
            const turn = thread.open()
            turn.decode()
            while (!over) await thread.piece(`answer ${i}`, turn, seconds)
            turn.close()
          })
          for (const seconds of pieces) {
            const before = thread.clock.now()
            await thread.piece('prefill', prefill, seconds)
            const waited = thread.clock.now() - before - seconds
            const longestPiece = Math.max(...pieces)
            assert.ok(waited <= 2 * longestPiece + 2 * Math.max(...stepSeconds) + 1, `${waited}`)
          }
          over = true
          prefill.close()
          await Promise.all(answers)
        },
      ),
      { seed: 20_260_801, numRuns: 100 },
    ))
})
