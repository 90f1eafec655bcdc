import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { type LinkSight, LinkWatchdog, PATIENCE } from '../../../shared/link/link-watchdog.ts'

const IDLE: LinkSight = { frames: 1, bytesRead: 0, unsent: 0, flushed: 0, paused: false }

/** The second at which a link that looks like this is closed, if within a minute; `sight` is told the second. */
function closedAt(sight: (second: number) => Partial<LinkSight>): number | undefined {
  const watchdog = new LinkWatchdog(PATIENCE, 0)
  for (let second = 1; second <= 60; second++) {
    const error = watchdog.look(second, { ...IDLE, ...sight(second) })
    if (error === undefined) continue
    assert.equal(error.code, 'link_stalled')
    return second
  }
  return undefined
}

describe('a link is closed', () => {
  it('after 5 s without a first frame', () =>
    assert.equal(
      closedAt(() => ({ frames: 0 })),
      6,
    ))

  it('when a frame trickles for 10 s', () => {
    assert.equal(
      closedAt((second) => ({ bytesRead: 10 * second })),
      12,
    )
    assert.equal(
      closedAt((second) => ({ bytesRead: second < 5 ? 0 : 50_000 })),
      16,
      'a part, then nothing',
    )
  })

  it('when its peer takes nothing for 10 s, with more than a MiB waiting', () => {
    assert.equal(
      closedAt(() => ({ unsent: 2 ** 21, flushed: 5 })),
      12,
    )
  })
})

describe('a link stays', () => {
  it('while nothing is on its way', () =>
    assert.equal(
      closedAt(() => IDLE),
      undefined,
    ))

  it('while frames come, however slowly the next one begins', () => {
    assert.equal(
      closedAt((second) => ({ frames: 1 + Math.floor(second / 9), bytesRead: 100 * second })),
      undefined,
    )
  })

  it('while a large frame gets on', () =>
    assert.equal(
      closedAt((second) => ({ bytesRead: 2000 * second })),
      undefined,
    ))

  it('while frames wait on this side', () =>
    assert.equal(
      closedAt((second) => ({ bytesRead: second, paused: true })),
      undefined,
    ))

  it('while its peer takes some, or owes little', () => {
    assert.equal(
      closedAt((second) => ({ unsent: 2 ** 24, flushed: second })),
      undefined,
    )
    assert.equal(
      closedAt(() => ({ unsent: 2 ** 20 })),
      undefined,
    )
  })

  it('when it was this process that stood still', () => {
    const watchdog = new LinkWatchdog(PATIENCE, 0)
    assert.equal(watchdog.look(1, { ...IDLE, bytesRead: 9, unsent: 2 ** 24 }), undefined)
    assert.equal(watchdog.look(100, { ...IDLE, bytesRead: 9, unsent: 2 ** 24 }), undefined)
    const silent = new LinkWatchdog(PATIENCE, 0)
    assert.equal(silent.look(100, { ...IDLE, frames: 0 }), undefined)
    assert.equal(silent.look(101, { ...IDLE, frames: 0 }), undefined)
  })
})
