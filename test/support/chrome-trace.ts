import assert from 'node:assert/strict'
import type { ChromeEvent, ChromeTrace } from '../../coordinator/trace/chrome.ts'

/** Checks what Perfetto asks of a trace; returns the spans of each track by `process/track`. */
export function checkedTracks({ traceEvents, displayTimeUnit }: ChromeTrace): Map<string, ChromeEvent[]> {
  assert.equal(displayTimeUnit, 'ms')
  const named = (kind: string, { pid, tid }: ChromeEvent) =>
    traceEvents.filter(
      (e) => e.ph === 'M' && e.name === kind && e.pid === pid && (kind !== 'thread_name' || e.tid === tid),
    )
  const tracks = new Map<string, ChromeEvent[]>()
  for (const event of traceEvents) {
    assert.match(event.ph, /^[XiM]$/)
    assert.notEqual(event.name, '')
    for (const number of [event.ts, event.pid, event.tid, ...(event.ph === 'X' ? [event.dur] : [])])
      assert.ok(Number.isInteger(number), JSON.stringify(event))
    assert.equal(event.dur === undefined, event.ph !== 'X')
    assert.equal(event.s === undefined, event.ph !== 'i')
    const [process, ...otherProcesses] = named('process_name', event)
    assert.ok(process !== undefined && otherProcesses.length === 0)
    if (event.ph === 'M') continue
    const [track, ...otherTracks] = named('thread_name', event)
    assert.ok(track !== undefined && otherTracks.length === 0, JSON.stringify(event))
    const name = `${process.args?.['name']}/${track.args?.['name']}`
    const spans = tracks.get(name) ?? []
    if (event.ph === 'X') tracks.set(name, [...spans, event])
  }
  for (const [name, spans] of tracks)
    for (const [i, { ts, dur = 0 }] of spans.entries()) {
      const before = spans[i - 1]
      assert.ok(dur >= 0 && (before === undefined || ts >= before.ts + before.dur!), `${name} overlaps at ${ts}`)
    }
  return tracks
}
