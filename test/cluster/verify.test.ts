import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { fixture } from '../support/paths.ts'
import { Headrace } from '../support/processes.ts'

interface Verdict {
  readonly ok: boolean
  readonly findings: {
    strategy: string
    workersUsed: number
    promptTokens: number
    maxLogitError: number
    ok: boolean
  }[]
}

async function verify(...args: string[]): Promise<{ code: number | null; verdict: Verdict }> {
  const headrace = new Headrace('verify', '--json', '--log-level', 'silent', ...args)
  const { code } = await headrace.exited()
  assert.equal(headrace.errors, '')
  return { code, verdict: JSON.parse(headrace.output) }
}

/** What each engine computes right, its contract shows for all; here is one of each that could go wrong between hosts. */
const ACROSS_HOSTS = [
  'llama',
  'mistral-sliding',
  'gemma2',
  'olmo2',
  'phi3-longrope',
  'llama-dynamic',
  'smollm3',
  'qwen2',
  'qwen3-moe',
]

describe('headrace verify', () => {
  for (const { model, engine, workers } of [
    ...ACROSS_HOSTS.map((model) => ({ model, engine: 'onnx', workers: 3 })),
    { model: 'llama3-rope', engine: 'onnx', workers: 5 },
    { model: 'gemma3', engine: 'onnx', workers: 2 },
    { model: 'gemma2', engine: 'tfjs', workers: 3 },
    { model: 'llama3-rope', engine: 'reference', workers: 2 },
  ]) {
    it(`finds ${model} right on ${engine} over ${workers} workers, by every strategy`, async () => {
      const { code, verdict } = await verify(
        '--model',
        fixture(model),
        '--engine',
        engine,
        '--workers',
        String(workers),
      )
      assert.equal(code, 0)
      assert.ok(verdict.ok)
      assert.equal(verdict.findings.length, 15)
      for (const { strategy, promptTokens, workersUsed, maxLogitError } of verdict.findings) {
        assert.ok(maxLogitError < 5e-5)
        if (promptTokens > 100) assert.equal(workersUsed, strategy === 'solo' ? 1 : workers)
      }
    })
  }

  it('says so, and ends with status 1, when numbers differ', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'headrace-verify-'))
    const expected = JSON.parse(readFileSync(join(fixture('llama'), 'expected.json'), 'utf8'))
    expected.cases = [expected.cases[2]]
    expected.cases[0].last_logits[100] += 0.01
    writeFileSync(join(folder, 'expected.json'), JSON.stringify(expected))
    const args = ['--expected', join(folder, 'expected.json'), '--strategy', 'chain', '--workers', '2']
    const { code, verdict } = await verify('--model', fixture('llama'), ...args)
    rmSync(folder, { recursive: true })
    assert.equal(code, 1)
    assert.ok(!verdict.ok)
    assert.ok(Math.abs(verdict.findings[0]!.maxLogitError - 0.01) < 1e-3)
  })
})
