import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'

const PROGRAM = fileURLToPath(new URL('../../deploy/headrace.js', import.meta.url))

/** `headrace` with these arguments and variables; nothing listens at the address it is given. */
function headrace(args: readonly string[], env: Readonly<Record<string, string>>): string {
  const { stderr, status } = spawnSync(process.execPath, [PROGRAM, ...args], { env: { ...process.env, ...env } })
  assert.equal(status, 1)
  return String(stderr)
}

describe('an environment variable', () => {
  const address = { HEADRACE_URL: 'http://127.0.0.1:1', HEADRACE_PROMPT_TOKENS: '7' }

  it('stands for a flag', () => {
    assert.match(headrace(['plan'], address), /no coordinator answers at http:\/\/127\.0\.0\.1:1: .+ \[dial_failed\]/)
  })

  it('gives way to the flag', () => {
    const said = headrace(['plan', '--url', 'http://127.0.0.1:2'], address)
    assert.match(said, /no coordinator answers at http:\/\/127\.0\.0\.1:2: .+ \[dial_failed\]/)
  })

  it('of another command is passed over', () => {
    assert.match(headrace(['plan'], { ...address, HEADRACE_KV_BUDGET_MIB: '1', HEADRACE_FOO: 'x' }), /\[dial_failed\]/)
  })

  it('with a wrong value is named', () => {
    const said = headrace(['plan'], { ...address, HEADRACE_PROMPT_TOKENS: 'many' })
    assert.match(said, /--prompt-tokens must be a whole number .*\[bad_config\]/)
  })
})

describe('a flag', () => {
  it('that the command does not have is refused', () => {
    assert.match(headrace(['plan', '--prompt-tokens', '3', '--foo'], {}), /Unknown argument: foo/)
  })
})
