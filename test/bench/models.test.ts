import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { loadTokenizer } from '../../coordinator/tokenizer/tokenizer.ts'
import { readModelShape } from '../../shared/model-folder.ts'
import { createEngine } from '../../worker/engine/create-engine.ts'
import { PLAIN } from '../../worker/engine/reference-engine.ts'
import { loadWeights } from '../../worker/model/weights.ts'
import { widenF16 } from '../../worker/model/widen.ts'
import { llamaShape } from '../support/llama-shape.ts'
import { PlainRun } from '../support/plain-run.ts'
import { prefill } from './harness/engine-run.ts'
import { cached } from './models/cache.ts'
import { toHalf } from './models/encoding.ts'
import { writeGguf } from './models/gguf.ts'
import { writeFolder } from './models/huggingface.ts'
import { PRESETS } from './models/presets.ts'
import { promptIds } from './models/prompt-ids.ts'
import { toBf16 } from './models/random-weights.ts'
import { type GgufFile, readGguf } from './models/read-gguf.ts'
import { ggufRow } from './models/tensors.ts'
import { END_TOKEN } from './models/tokenizer.ts'

const SHAPE = llamaShape(
  {
    layers: 3,
    hidden: 96,
    heads: 6,
    kvHeads: 2,
    headDim: 16,
    ffn: 160,
    vocab: 320,
    contextLength: 4096,
    tiedHead: false,
  },
  PRESETS.llama1b.layerShapes[0]!.rope,
)
const SEED = 5

describe('models of random weights', () => {
  let folder: string
  let plain: GgufFile
  let quantised: GgufFile

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'headrace-models-'))
    await writeFolder(join(folder, 'bf16'), SHAPE, SEED, 'BF16')
    await writeFolder(join(folder, 'f32'), SHAPE, SEED, 'F32')
    await writeGguf(join(folder, 'f32.gguf'), SHAPE, SEED, 'F32')
    await writeGguf(join(folder, 'q8.gguf'), SHAPE, SEED, 'Q8_0')
    plain = readGguf(await readFile(join(folder, 'f32.gguf')))
    quantised = readGguf(await readFile(join(folder, 'q8.gguf')))
  })
  after(() => rm(folder, { recursive: true }))

  it('have the shape they were asked for, with either number type', async () => {
    assert.deepEqual(await readModelShape(join(folder, 'bf16')), SHAPE)
    assert.deepEqual(await readModelShape(join(folder, 'f32')), SHAPE)
    for (const shape of Object.values(PRESETS)) assert.equal(shape.heads % shape.kvHeads, 0)
  })

  it('hold the same numbers as bf16 and as f32, and others with another seed', async () => {
    const load = (name: string) => loadWeights(join(folder, name), SHAPE, PLAIN)
    const [bf16, f32] = [await load('bf16'), await load('f32')]
    assert.deepEqual(bf16, f32)
    await writeFolder(join(folder, 'other'), SHAPE, SEED + 1, 'F32')
    const other = await load('other')
    assert.notDeepEqual(other.layers[0]?.mlp?.down, f32.layers[0]?.mlp?.down)
    assert.notDeepEqual(f32.layers[1]?.mlp?.down, f32.layers[0]?.mlp?.down)
  })

  it('have no two equal rows and a spread that keeps products at one size', async () => {
    const { embedding_vocab_dim, layers } = await loadWeights(join(folder, 'f32'), SHAPE, PLAIN)
    const rows = new Set(
      Array.from({ length: SHAPE.vocab }, (_, i) =>
        String((embedding_vocab_dim as Float32Array).subarray(i * 96, i * 96 + 4)),
      ),
    )
    assert.equal(rows.size, SHAPE.vocab)
    const { down } = layers[0]!.mlp!
    const deviation = Math.sqrt(down.reduce((total, w) => total + w * w, 0) / down.length)
    assert.ok(Math.abs(deviation * Math.sqrt(SHAPE.ffn) - 1) < 0.05, `${deviation}`)
  })

  it('say the same as GGUF, but for the order of rotated rows', async () => {
    const { layers, embedding_vocab_dim, head, finalNorm_dim } = await loadWeights(join(folder, 'f32'), SHAPE, PLAIN)
    const equal = (name: string, values: ArrayLike<number>): void => assert.deepEqual(plain.f32(name), values, name)
    equal('token_embd.weight', embedding_vocab_dim as Float32Array)
    equal('output.weight', head[0]!)
    equal('output_norm.weight', finalNorm_dim)
    const { attention, mlp, vectors } = layers[2]!
    equal('blk.2.ffn_gate.weight', mlp!.gate)
    equal('blk.2.ffn_up.weight', mlp!.up)
    equal('blk.2.ffn_down.weight', mlp!.down)
    equal('blk.2.attn_output.weight', attention.o)
    equal('blk.2.attn_norm.weight', vectors.attention_norm!)
    equal('blk.2.ffn_norm.weight', vectors.mlp_norm!)
    equal('blk.2.attn_v.weight', attention.v)
    const q = plain.f32('blk.2.attn_q.weight')
    const k = plain.f32('blk.2.attn_k.weight')
    for (const [half, from] of [
      [0, 0],
      [1, 8],
    ] as const) // head 3: pair 2 of GGUF is rows 2 and 2 + 8 of the halves
      assert.deepEqual(
        q.subarray((48 + 4 + half) * 96, (48 + 5 + half) * 96),
        attention.q.subarray((48 + 2 + from) * 96, (48 + 3 + from) * 96),
      )
    assert.deepEqual(k.subarray(0, 96), attention.k.subarray(0, 96))
  })

  it('order every row of a head once', () => {
    const rows = Array.from({ length: 32 }, (_, row) => ggufRow(row, 16))
    assert.deepEqual(rows.slice(0, 4), [0, 8, 1, 9])
    assert.deepEqual(rows.slice(16, 18), [16, 24])
    assert.deepEqual(
      rows.toSorted((a, b) => a - b),
      [...rows.keys()],
    )
  })

  it('round to the nearest of 255 steps a block as Q8_0, with norms left as they are', () => {
    const exact = plain.f32('blk.1.ffn_down.weight')
    const { scales, values } = quantised.q8('blk.1.ffn_down.weight')
    assert.equal(values.length, exact.length)
    for (const [block, scale] of scales.entries()) {
      const own = exact.subarray(block * 32, block * 32 + 32)
      assert.ok(Math.abs(Math.max(...own.map(Math.abs)) - 127 * scale) < 127 * scale * 2 ** -10)
      for (const [i, value] of own.entries())
        assert.ok(Math.abs(values[block * 32 + i]! * scale - value) <= scale * (0.5 + 127 * 2 ** -11), `${value}`)
    }
    assert.deepEqual(quantised.f32('blk.1.attn_norm.weight'), plain.f32('blk.1.attn_norm.weight'))
  })

  it('tell llama.cpp what config.json tells us', () => {
    const { metadata } = plain
    assert.equal(metadata.get('general.architecture'), 'llama')
    assert.equal(metadata.get('llama.block_count'), 3)
    assert.equal(metadata.get('llama.attention.head_count_kv'), 2)
    assert.equal(metadata.get('llama.rope.freq_base'), 500_000)
    assert.equal((metadata.get('tokenizer.ggml.tokens') as string[]).length, SHAPE.vocab)
    const factors = plain.f32('rope_freqs.weight')
    assert.equal(factors[0], 1)
    assert.ok(Math.abs(factors.at(-1)! - 32) < 1e-3, `${factors}`)
    assert.equal(quantised.metadata.get('general.file_type'), 7)
  })

  it('come with a tokenizer that gives back every text and has a text for every id', async () => {
    const tokenizer = await loadTokenizer(join(folder, 'bf16'))
    assert.equal(tokenizer.vocabularySize, SHAPE.vocab)
    const text = 'Züge am Morgen: 3 × 5 = 15\n\t☂'
    const ids = tokenizer.encode(text)
    assert.equal(ids.length, Buffer.byteLength(text))
    assert.equal(tokenizer.decode(ids), text)
    assert.equal(tokenizer.decode([300, 301]), 'word300.word301.')
    assert.ok(tokenizer.isSpecial(END_TOKEN))
  })

  it('compute to logits that tell tokens apart, whichever loop asks', async () => {
    const ids = promptIds(SHAPE.vocab, 600)
    const engine = await createEngine('onnx', join(folder, 'bf16'), { threads: 1 })
    const { logits, lastRows } = await prefill(engine, Int32Array.from(ids))
    assert.equal(lastRows, 300)
    const other = await new PlainRun(engine, 600, { chunkTokens: 100, blockTokens: 600 }).feed(ids)
    for (const [id, logit] of logits.entries()) assert.ok(Math.abs(logit - other[id]!) < 1e-4, `${id}`)
    const spread = Math.sqrt(logits.reduce((total, logit) => total + logit * logit, 0) / logits.length)
    assert.ok(spread > 0.3 && spread < 3, `${spread}`)
    await engine.close()
  })
})

describe('the cache of models', () => {
  let folder: string
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'headrace-cache-'))
  })
  after(() => rm(folder, { recursive: true }))

  it('writes once and leaves nothing behind when writing fails', async () => {
    let writes = 0
    const write = async (path: string): Promise<void> => {
      await writeFile(path, 'half')
      writes += 1
      if (writes === 1) throw new Error('the disk is full')
    }
    await assert.rejects(cached('model', write, folder), /disk is full/)
    assert.deepEqual(await readdir(folder), [])
    const path = await cached('model', write, folder)
    assert.equal(await cached('model', write, folder), path)
    assert.equal(writes, 2)
    assert.ok(existsSync(path))
  })

  it('takes what another process has finished first', async () => {
    const write = (text: string, inner?: () => Promise<unknown>) => async (path: string) => {
      await writeFolder(path, { ...SHAPE, layers: 1 }, 1, 'BF16')
      await writeFile(join(path, 'who'), text)
      await inner?.()
    }
    const path = await cached(
      'folder',
      write('slow', () => cached('folder', write('fast'), folder)),
      folder,
    )
    assert.equal(await readFile(join(path, 'who'), 'utf8'), 'fast')
    assert.deepEqual(
      (await readdir(folder)).filter((name) => name.startsWith('folder')),
      ['folder'],
    )
  })
})

describe('number formats', () => {
  it('rounds to bf16 to nearest, ties to even', () => {
    const one = 0x3f80
    const values = Float32Array.of(1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20, -0.5)
    assert.deepEqual([...toBf16(values)], [one, one, one + 2, one + 1, 0xbf00])
  })

  it('writes halves that read back as the nearest', () => {
    const values = [0, 2 ** -24, 2 ** -15, 0.001, 1 / 3, 1, 1.9999, 65504]
    const back = new Float32Array(values.length)
    widenF16(Uint16Array.from(values, toHalf), back)
    for (const [i, value] of values.entries())
      assert.ok(Math.abs(back[i]! - value) <= Math.max(2 ** -25, value * 2 ** -11), `${value} is read as ${back[i]}`)
  })

  it('begins a longer prompt with the shorter one', () => {
    assert.deepEqual(promptIds(1000, 50).slice(0, 20), promptIds(1000, 20))
    assert.ok(promptIds(1000, 500).every((id) => id > END_TOKEN && id < 1000))
  })
})
