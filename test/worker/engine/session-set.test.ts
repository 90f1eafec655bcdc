import assert from 'node:assert/strict'
import { test } from 'node:test'
import { GraphBuilder } from '../../../worker/engine/onnx/graph-builder.ts'
import { SessionSet } from '../../../worker/engine/onnx/session-set.ts'
import { coded } from '../../support/coded.ts'

const SIDE = 64

/** exp(x) times itself. */
function squares(): Uint8Array {
  const g = new GraphBuilder()
  const e = g.op('Exp', [g.input('x', ['S', SIDE])])
  g.output('y', g.op('MatMul', [e, e]), ['S', SIDE])
  return g.build('squares')
}

const ROWS = 2 ** 14
/** exp(x), 4 MiB of it. */
function powers(build: 'build' | 'buildWithNothing'): Uint8Array {
  const g = new GraphBuilder()
  g.output('y', g.op('Exp', [g.input('x', ['S', SIDE])]), ['S', SIDE])
  return g[build]('powers')
}

async function sumOf(sessions: SessionSet): Promise<number> {
  const y = new Float32Array(SIDE * SIDE)
  await sessions.run('squares', { x: [new Float32Array(SIDE * SIDE), [SIDE, SIDE]] }, { y: [y, [SIDE, SIDE]] })
  return y[SIDE]!
}

test('sessions that are renewed compute as before, and a call that comes meanwhile waits', async () => {
  const sessions = new SessionSet(1)
  await sessions.add('squares', squares())
  assert.equal(await sumOf(sessions), SIDE)
  sessions.renew()
  sessions.renew()
  assert.equal(await sumOf(sessions), SIDE)
  await sessions.release()
})

test('sessions whose models are not kept stay as they are', async () => {
  const sessions = new SessionSet(1, { renewable: false })
  await sessions.add('squares', squares())
  sessions.renew()
  assert.equal(await sumOf(sessions), SIDE)
  await sessions.release()
})

test('a session that is released while it is made anew is released', async () => {
  const sessions = new SessionSet(1)
  await sessions.add('squares', squares())
  sessions.renew()
  await sessions.release()
  sessions.renew()
  const y = new Float32Array(SIDE).fill(7)
  await sessions.run('squares', {}, { y: [y, [1, SIDE]] })
  assert.ok(y.every((value) => value === 7))
})

for (const build of ['build', 'buildWithNothing'] as const)
  test(`large outputs are written where they lie (${build})`, async () => {
    const sessions = new SessionSet(1)
    await sessions.add('powers', powers(build))
    const [x, y] = [new Float32Array(ROWS * SIDE), new Float32Array(ROWS * SIDE)]
    await sessions.run('powers', { x: [x, [ROWS, SIDE]] }, { y: [y, [ROWS, SIDE]] })
    assert.ok(y.every((value) => value === 1))
    await assert.rejects(
      sessions.run('powers', { x: [x, [ROWS, SIDE]] }, { y: [y, [SIDE, ROWS]] }),
      coded('engine_failed'),
    )
    await assert.rejects(
      sessions.run('powers', { x: [x, [SIDE, ROWS]] }, { y: [y, [ROWS, SIDE]] }),
      coded('engine_failed'),
    )
    await sessions.release()
  })

test('large outputs are not copied', async () => {
  const sessions = new SessionSet(1)
  await sessions.add('powers', powers('buildWithNothing'))
  const [x, y] = [new Float32Array(ROWS * SIDE), new Float32Array(ROWS * SIDE)]
  const before = process.memoryUsage().arrayBuffers
  await sessions.run('powers', { x: [x, [ROWS, SIDE]] }, { y: [y, [ROWS, SIDE]] })
  assert.ok(process.memoryUsage().arrayBuffers - before < y.byteLength / 2)
  await sessions.release()
})
