import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Assembly } from '../../../worker/decode/assembly.ts'
import { createEngine } from '../../../worker/engine/create-engine.ts'
import type { Engine } from '../../../worker/engine/engine.ts'
import { exportBlock } from '../../../worker/kv/block.ts'
import { createTinyModel } from '../../support/tiny-model.ts'

const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
}

/** An engine whose imports wait for `proceed`, with what happens to it in order. */
async function slowEngine() {
  const model = await createTinyModel()
  const engine: Engine = await createEngine('reference', model.folder, { threads: 1 })
  await model.remove()
  const log: string[] = []
  const waiting: (() => void)[] = []
  const { importKv } = engine
  engine.importKv = async (...args) => {
    log.push('import begins')
    await new Promise<void>((resolve) => waiting.push(resolve))
    await importKv.apply(engine, args)
    log.push('import ends')
  }
  engine.release = () => log.push('release')
  return { engine, log, proceed: () => waiting.shift()?.() }
}

async function started(expectedBlocks: number) {
  const { engine, ...rest } = await slowEngine()
  const controller = new AbortController()
  const assembly = new Assembly({ engine, capacity: 8, expectedBlocks, budgetBytes: 1e6, signal: controller.signal })
  const block = await exportBlock(engine, 0, engine.createKv(2, 3), 'f16')
  return { assembly, block, controller, ...rest }
}

describe('the KV cache of a decode node', () => {
  it('takes one block at a time and is complete after the last', async () => {
    const { assembly, block, log, proceed } = await started(2)
    const added = [assembly.add(block), assembly.add(block)]
    await settle()
    assert.deepEqual(log, ['import begins'])
    proceed()
    await added[0]
    await settle()
    proceed()
    await assembly.complete()
    assert.deepEqual(log, ['import begins', 'import ends', 'import begins', 'import ends'])
    await Promise.all(added)
  })

  it('gives its memory back only when the block under way is in, and takes no more of a cancelled run', async () => {
    const { assembly, block, controller, log, proceed } = await started(2)
    const first = assembly.add(block)
    const second = assert.rejects(assembly.add(block), { code: 'cancelled' })
    await settle()
    controller.abort()
    const released = assembly.release()
    await settle()
    assert.deepEqual(log, ['import begins'])
    proceed()
    await Promise.all([first, second, released])
    assert.deepEqual(log, ['import begins', 'import ends', 'release'])
  })

  it('refuses a damaged block and takes the next', async () => {
    const { assembly, block, log, proceed } = await started(1)
    await assert.rejects(assembly.add({ ...block, crc32: block.crc32 ^ 1 }), { code: 'kv_checksum' })
    const added = assembly.add(block)
    await settle()
    proceed()
    await added
    await assembly.complete()
    assert.deepEqual(log, ['import begins', 'import ends'])
  })
})
