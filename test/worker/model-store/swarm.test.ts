import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { PieceSet } from '../../../shared/model-store/piece-set.ts'
import { type Job, Swarm } from '../../../worker/model-store/swarm.ts'
import { seededRandom } from '../../support/random.ts'

const HUB = 'http://coordinator'
const PIECES = 12

function setOf(...pieces: number[]): PieceSet {
  const set = new PieceSet(PIECES)
  for (const piece of pieces) set.add(piece)
  return set
}

const swarmOf = (have = setOf()): Swarm => new Swarm(have, HUB, seededRandom(1))

/** All that can be asked now. */
function requests(swarm: Swarm, now = 0): Job[] {
  const jobs: Job[] = []
  for (let job = swarm.next(now); job !== undefined; job = swarm.next(now)) jobs.push(job)
  return jobs
}
const of = (jobs: readonly Job[], url: string): number[] =>
  jobs.filter(({ source }) => source.url === url).map(({ piece }) => piece)

describe('a swarm', () => {
  it('asks workers for what they have and the coordinator for what nobody else has', () => {
    const swarm = swarmOf(setOf(0, 1))
    swarm.setPeers([
      { url: 'a', have: setOf(0, 2, 3) },
      { url: 'b', have: setOf(1, 3, 4, 5) },
    ])
    const jobs = requests(swarm)
    assert.deepEqual(of(jobs, 'a').sort(), [2, 3])
    assert.deepEqual(of(jobs, 'b').sort(), [4, 5]) // the rarest: 3 has another holder
    const coordinator = of(jobs, HUB)
    assert.equal(coordinator.length, 4)
    assert.ok(coordinator.every((piece) => piece >= 6))
    assert.equal(new Set(jobs.map(({ piece }) => piece)).size, jobs.length)
  })

  it('begins somewhere else in every worker', () => {
    const firsts = Array.from({ length: 20 }, (_, seed) => new Swarm(setOf(), HUB, seededRandom(seed)).next(0)?.piece)
    assert.ok(new Set(firsts).size > 5)
  })

  it('goes on when a request is over, and never has more than eight under way', () => {
    const swarm = swarmOf()
    swarm.setPeers(['a', 'b', 'c', 'd'].map((url) => ({ url, have: undefined })))
    const jobs = requests(swarm)
    assert.equal(jobs.length, 8)
    swarm.done(jobs[0]!)
    assert.equal(requests(swarm).length, 1)
  })

  it('lets a source that failed rest for longer each time, and drops a worker in the end', () => {
    const have = setOf(...Array.from({ length: PIECES - 1 }, (_, i) => i))
    const swarm = swarmOf(have)
    swarm.setPeers([{ url: 'a', have: undefined }])
    const rests: number[] = []
    let now = 0
    for (let i = 0; i < 3; i++) {
      const [job] = requests(swarm, now)
      assert.equal(job?.source.url, 'a')
      swarm.failed(job, now)
      const [other] = requests(swarm, now)
      assert.equal(other?.source.url, HUB)
      swarm.failed(other, now)
      const until = swarm.restsUntil(now)!
      rests.push(until - now)
      now = until
    }
    assert.ok(rests[1]! > rests[0]! && rests[2]! > rests[1]!)
    assert.deepEqual(
      requests(swarm, now).map(({ source }) => source.url),
      [HUB],
    )
  })

  it('does not ask a source again for what it did not have', () => {
    const swarm = swarmOf()
    swarm.setPeers([{ url: 'a', have: setOf(3) }])
    const [job] = requests(swarm).filter(({ source }) => source.url === 'a')
    swarm.missing(job!, 0)
    assert.deepEqual(of(requests(swarm), 'a'), [])
  })

  it('never asks a liar again, even if it is named anew; without anybody it is hopeless', () => {
    const swarm = swarmOf()
    swarm.setPeers([{ url: 'a', have: undefined }])
    const jobs = requests(swarm)
    for (const job of jobs.filter(({ source }) => source.url === 'a')) swarm.lied(job)
    swarm.setPeers([{ url: 'a', have: undefined }])
    assert.deepEqual(of(requests(swarm), 'a'), [])
    assert.equal(swarm.hopeless, false)
    for (const job of jobs.filter(({ source }) => source.coordinator)) swarm.lied(job)
    assert.equal(swarm.hopeless, true)
    assert.deepEqual(requests(swarm), [])
  })
})
