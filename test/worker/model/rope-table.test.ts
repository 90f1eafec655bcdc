import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { parseModelConfig } from '../../../shared/model-config.ts'
import { inverseFrequencies, RopeTables } from '../../../worker/model/rope-table.ts'

const shape = parseModelConfig({
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 64,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  vocab_size: 8,
  max_position_embeddings: 5000,
})

describe('the rope table', () => {
  test('gives the same rows however far it has grown', () => {
    const early = new RopeTables(shape).rows(0, 3, 5, 5000)
    const table = new RopeTables(shape)
    table.rows(0, 4990, 10, 5000)
    assert.deepEqual(table.rows(0, 3, 5, 5000), early)
    assert.equal(early.cos.length, 5 * 8)
  })

  test('holds the cosine and sine of the float32 angle', () => {
    const { cos, sin } = new RopeTables(shape).rows(0, 4321, 1, 5000)
    inverseFrequencies(shape.layerShapes[0]!.rope!, 16).forEach((frequency, pair) => {
      const angle = Math.fround(4321 * frequency)
      assert.equal(cos[pair], Math.fround(Math.cos(angle)))
      assert.equal(sin[pair], Math.fround(Math.sin(angle)))
    })
  })

  test('does not end with the context length', () => {
    const beyond = new RopeTables(shape).rows(0, 4998, 4, 5002)
    const longer = new RopeTables({ ...shape, contextLength: 6000 }).rows(0, 4998, 4, 5002)
    assert.deepEqual(beyond, longer)
  })
})

describe('llama3 rope', () => {
  test('keeps short waves, stretches long ones by the factor, and blends between', () => {
    const plain = inverseFrequencies({ kind: 'default', theta: 500000 }, 128)
    const scaled = inverseFrequencies(
      { kind: 'llama3', theta: 500000, factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContextLength: 8192 },
      128,
    )
    plain.forEach((frequency, i) => {
      const wavelength = (2 * Math.PI) / frequency
      if (wavelength < 8192 / 4) assert.equal(scaled[i], frequency)
      else if (wavelength > 8192) assert.equal(scaled[i], Math.fround(frequency / 8))
      else assert.ok(scaled[i]! < frequency && scaled[i]! > frequency / 8)
    })
  })
})
