import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { DATA_LIMITS } from '../../shared/link/link.ts'
import { wsDialer } from '../../shared/link/ws-link.ts'
import { bundledModel, fixture } from '../support/paths.ts'
import { askUntil, type ClusterAnswer, Headrace, startUp } from '../support/processes.ts'
import { seededRandom } from '../support/random.ts'

/** What processes do when others come, go or talk nonsense. Worker names are those that `headrace up` gives. */

const long = 'In the morning of day 27, nothing passed; the bell cracked for most of the day. '.repeat(700)
const ask = (url: string, of: object = {}, signal?: AbortSignal) =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ role: 'user', content: 'What was the sea like?' }], max_tokens: 8, ...of }),
    ...(signal && { signal }),
  })
const quiet = ({ workers, runs }: ClusterAnswer): boolean => runs.running === 0 && workers.every((w) => w.runs === 0)

const alive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false // no such process
  }
}

describe('headrace up', () => {
  let up: Headrace
  let url: string
  before(async () => {
    ;({ up, url } = await startUp('--workers', '2'))
  })
  after(() => up.stop())

  it('is ready when it prints its URL', async () => {
    assert.equal((await fetch(`${url}/ready`)).status, 200)
    const { workers } = (await (await fetch(`${url}/v1/cluster`)).json()) as ClusterAnswer
    assert.deepEqual(workers.map(({ id, state }) => `${id} ${state}`).sort(), [
      'decode-1 ready',
      'worker-1 ready',
      'worker-2 ready',
    ])
  })

  it('stops a run on every worker when the client hangs up', async () => {
    const controller = new AbortController()
    const messages = [{ role: 'user', content: long }]
    const stream = await ask(
      url,
      { messages, stream: true, return_progress: true, headrace: { strategy: 'chain', workers: 2 } },
      controller.signal,
    )
    for await (const piece of stream.body!) if (Buffer.from(piece).includes('prompt_progress')) break
    controller.abort()
    await askUntil<ClusterAnswer>(`${url}/v1/cluster`, quiet)
    const metrics = await (await fetch(`${url}/metrics`)).text()
    assert.match(metrics, /headrace_requests_total\{status="cancelled",strategy="chain"\} 1/)
    assert.equal((await ask(url)).status, 200)
  })

  it('answers prompts that come together', async () => {
    const answers = await Promise.all(Array.from({ length: 6 }, () => ask(url)))
    assert.deepEqual(
      answers.map(({ status }) => status),
      Array(6).fill(200),
    )
  })

  it('survives garbage on the port that workers dial', async () => {
    const random = seededRandom(5)
    for (let i = 0; i < 20; i++) {
      const link = await wsDialer.dial(`${url.replace('http', 'ws')}/link`, DATA_LIMITS, AbortSignal.timeout(5000))
      await link.send(Uint8Array.from({ length: 1 + Math.floor(random() * 300) }, () => Math.floor(random() * 256)))
      await assert.rejects(link.receive(), /frame_/)
    }
    assert.equal((await ask(url)).status, 200)
  })

  const midway = (stream: boolean) => ({
    messages: [{ role: 'user', content: long.slice(0, long.length / 8) }],
    stream,
    return_progress: stream,
    temperature: 0,
    headrace: { strategy: 'chain', workers: 2 },
  })

  /** The text of the answer, and its account of the prefill, of a run in which `fault` happens after its first progress. */
  async function faulted(fault: () => void) {
    const stream = await ask(url, midway(true))
    let text = ''
    for await (const piece of stream.body!) {
      if (text === '') fault()
      text += Buffer.from(piece)
    }
    const chunks = text
      .split('\n')
      .filter((line) => line.startsWith('data: {'))
      .map((line) => JSON.parse(line.slice('data: '.length)))
    return {
      text: chunks.map(({ choices }) => choices?.[0]?.delta?.content ?? '').join(''),
      prefill: chunks.find(({ prefill }) => prefill)?.prefill,
    }
  }

  async function reference(): Promise<string> {
    const { choices } = (await (await ask(url, midway(false))).json()) as {
      choices: { message: { content: string } }[]
    }
    return choices[0]!.message.content
  }

  it('answers as if nothing had happened though a worker of the run freezes, and takes it back when it thaws', async () => {
    const expected = await reference()
    const frozen = up.children.get('worker-2')!
    try {
      const { text, prefill } = await faulted(() => process.kill(frozen, 'SIGSTOP'))
      assert.equal(text, expected)
      assert.deepEqual(
        [prefill.attempts, prefill.repairs[0].worker, prefill.repairs[0].code],
        [1, 'worker-2', 'worker_lost'],
      )
    } finally {
      process.kill(frozen, 'SIGCONT')
    }
    const ready = ({ workers }: ClusterAnswer) => workers.filter(({ state }) => state === 'ready').length === 3
    await askUntil<ClusterAnswer>(`${url}/v1/cluster`, ready)
    assert.equal(await reference(), expected)
  })

  it('answers as if nothing had happened though a worker of the run is killed, and starts it again', async () => {
    const before = up.children
    const expected = await reference()
    const { text, prefill } = await faulted(() => process.kill(before.get('worker-2')!, 'SIGKILL'))
    assert.equal(text, expected)
    assert.deepEqual(
      [prefill.attempts, prefill.repairs[0].worker, prefill.repairs[0].code],
      [1, 'worker-2', 'worker_lost'],
    )
    await up.says(/worker-2 ended \(SIGKILL\); starting it again/)
    const ready = ({ workers }: ClusterAnswer) => workers.filter(({ state }) => state === 'ready').length === 3
    await askUntil<ClusterAnswer>(`${url}/v1/cluster`, ready)
    assert.notEqual(up.children.get('worker-2'), before.get('worker-2'))
  })

  it('ends all its processes on Ctrl-C', async () => {
    const pids = [...up.children.values()]
    assert.equal(pids.length, 4)
    up.child.kill('SIGINT')
    assert.equal((await up.exited()).code, 0)
    for (const pid of pids) assert.ok(!alive(pid))
  })
})

describe('a worker process', () => {
  it('keeps trying until its coordinator is there, serves, and leaves in good order on SIGTERM', async () => {
    const model = ['--model', bundledModel, '--log-level', 'silent']
    const first = new Headrace('coordinator', ...model, '--port', '0')
    const url = await first.line(/^http:/)
    await first.stop()
    const common = ['worker', '--model', bundledModel, '--log-level', 'info', '--coordinator', url, '--threads', '1']
    const worker = new Headrace(...common, '--name', 'early')
    const decode = new Headrace(...common, '--role', 'decode', '--name', 'reader')
    await worker.says(/waiting for the coordinator/)
    const coordinator = new Headrace('coordinator', ...model, '--port', new URL(url).port)
    await coordinator.line(/^http:/)
    await askUntil<{ status?: string }>(`${url}/ready`, ({ status }) => status === 'ok')
    assert.equal((await ask(url)).status, 200)

    assert.deepEqual(await worker.stop(), { code: 0, signal: null })
    const refused = await ask(url)
    assert.equal(refused.status, 503)
    assert.ok(Number(refused.headers.get('retry-after')) > 0)
    assert.equal(((await refused.json()) as { error: { code: string } }).error.code, 'no_workers')
    assert.deepEqual(await decode.stop(), { code: 0, signal: null })
    assert.deepEqual(await coordinator.stop(), { code: 0, signal: null })
  })

  it('with another model is refused, says both fingerprints and ends', async () => {
    const coordinator = new Headrace('coordinator', '--model', bundledModel, '--port', '0', '--log-level', 'silent')
    const url = await coordinator.line(/^http:/)
    const stranger = new Headrace('worker', '--coordinator', url, '--model', fixture('llama'), '--log-level', 'silent')
    assert.equal((await stranger.exited()).code, 1)
    assert.match(stranger.errors, /fingerprint_mismatch/)
    assert.equal(stranger.errors.match(/[0-9a-f]{64}/g)?.length, 2)
    await coordinator.stop()
  })

  it('or a coordinator whose port is taken says so and ends', async () => {
    const first = new Headrace('coordinator', '--model', bundledModel, '--port', '0', '--log-level', 'silent')
    const { port } = new URL(await first.line(/^http:/))
    for (const command of ['coordinator', 'worker']) {
      const second = new Headrace(command, '--model', bundledModel, '--port', port, '--log-level', 'silent')
      assert.equal((await second.exited()).code, 1)
      assert.match(second.errors, /cannot listen .*\[bad_config\]/)
    }
    await first.stop()
  })

  it('or a coordinator with a model that has no tokenizer says so and ends', async () => {
    const coordinator = new Headrace('coordinator', '--model', fixture('llama'), '--port', '0', '--log-level', 'silent')
    assert.equal((await coordinator.exited()).code, 1)
    assert.match(coordinator.errors, /tokenizer\.json \[model_incomplete\]/)
  })

  for (const { args, code } of [
    { args: ['--model', '/nowhere'], code: 'model_incomplete' },
    { args: ['--model', bundledModel, '--host', '0.0.0.0'], code: 'bad_config' },
    { args: ['--model', bundledModel, '--threads', '0'], code: 'bad_config' },
    { args: ['--model', bundledModel, '--coordinator', 'ftp://x'], code: 'bad_config' },
  ]) {
    it(`with ${args.at(-2)} ${args.at(-1)?.split('/').at(-1)} ends at once with ${code}`, async () => {
      const worker = new Headrace('worker', ...args, '--log-level', 'silent')
      assert.equal((await worker.exited()).code, 1)
      assert.match(worker.errors, new RegExp(`\\[${code}\\]`))
    })
  }
})
