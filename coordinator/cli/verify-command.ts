import { readFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { z } from 'zod'
import { modelOptions, type Program, wholeNumber } from '../../shared/cli/options.ts'
import { reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { DEVICES, ENGINES, WEIGHTS } from '../../shared/engine-name.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { isGguf } from '../../shared/gguf/names.ts'
import { createLog } from '../../shared/log.ts'
import { defaultCache, resolveModel } from '../../shared/model-store/resolve.ts'
import { STRATEGIES, type Strategy } from '../../shared/plan.ts'
import { startHeadless } from '../coordinator.ts'
import type { Runs } from '../runs/events.ts'
import { startWorkers, until } from './local-cluster.ts'
import { ProcessGroup } from './processes.ts'
import { table } from './table.ts'

/** `headrace verify`. */
export const verifyCommand = (program: Program): Program =>
  program.command(
    'verify',
    'Check a model against reference numbers (Hugging Face transformers) through a real cluster',
    (args) =>
      modelOptions(args, { demandOption: true })
        .option('expected', {
          type: 'string',
          describe: 'Reference numbers [default: expected.json in the folder]',
        })
        .option('device', {
          choices: DEVICES,
          default: 'cpu' as const,
          describe: 'Where the onnx engine computes; auto: on a GPU if there is one',
        })
        .option('weights', {
          choices: WEIGHTS,
          default: 'f32' as const,
          describe: 'How weights are kept and computed with',
        })
        .option('engine', { choices: ENGINES, default: 'onnx' as const, describe: 'What does the arithmetic' })
        .option('strategy', { choices: STRATEGIES, describe: 'Only this one [default: all]' })
        .option('workers', { type: 'number', default: 2, describe: 'Prefill worker processes' })
        .option('tolerance', { type: 'number', default: 2e-3, describe: 'Largest absolute logit error allowed' })
        .option('json', { type: 'boolean', default: false, describe: 'Print one JSON object' })
        .default('log-level', 'warn'),
    (args) => verify(args).catch((thrown: unknown) => reportFatal(thrown)),
  )

interface VerifyArgs {
  model: string
  cache?: string | undefined
  expected?: string | undefined
  engine: string
  weights: string
  device: string
  strategy?: Strategy | undefined
  workers: number
  tolerance: number
  json: boolean
  logLevel: string
}

const expectedSchema = z.object({
  cases: z
    .array(
      z.object({
        ids: z.array(z.number().int().min(0)).min(1),
        last_logits: z.array(z.number()),
        greedy_next_8: z.array(z.number().int()),
      }),
    )
    .min(1),
})
type Case = z.infer<typeof expectedSchema>['cases'][number]

interface Finding {
  readonly strategy: Strategy
  readonly workersUsed: number
  readonly promptTokens: number
  readonly maxLogitError: number
  readonly greedyAgrees: boolean
  readonly ok: boolean
}

async function verify(args: VerifyArgs): Promise<void> {
  const { tolerance, json } = args
  const cache = resolve(args.cache ?? defaultCache())
  const model = await resolveModel(args.model, cache)
  const workers = wholeNumber('workers', args.workers, 1, 64)
  const cases = await readExpected(args.expected ?? join(isGguf(model) ? dirname(model) : model, 'expected.json'))
  const signal = stopSignal()
  const headless = await startHeadless(model, cache, createLog('verify', args.logLevel))
  const group = new ProcessGroup()
  try {
    const { engine, weights, device, logLevel } = args
    startWorkers(group, headless.url, {
      model,
      workers,
      decodeNodes: 1,
      engine,
      weights,
      device,
      threads: 1,
      pin: false,
      logLevel,
    })
    const { runs } = headless
    const either = AbortSignal.any([signal, group.failed])
    const ready = (): boolean => runs.cluster().workers.filter(({ state }) => state === 'ready').length > workers
    await until(ready, either)
    const findings: Finding[] = []
    for (const strategy of args.strategy ? [args.strategy] : STRATEGIES)
      for (const known of cases) findings.push(await check(runs, known, strategy, workers, tolerance, either))
    print(findings, args)
    if (findings.some(({ ok }) => !ok)) process.exitCode = 1
    else if (!json) process.stdout.write(`all ${findings.length} agree within ${tolerance}\n`)
  } finally {
    await group.stop()
    await headless.close()
  }
}

/** One prompt through the cluster: its last position's logits and its greedy continuation against the known ones. */
async function check(
  runs: Runs,
  known: Case,
  strategy: Strategy,
  workers: number,
  tolerance: number,
  signal: AbortSignal,
): Promise<Finding> {
  const prefillTokens = known.ids.length - 1
  const request = {
    promptTokens: Int32Array.from(known.ids),
    maxTokens: Math.max(1, known.greedy_next_8.length),
    sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
    stopTokens: [],
    strategy,
    ...(strategy !== 'solo' && prefillTokens > 0 && { workers }),
    wantLogits: true,
  }
  let logits = new Float32Array()
  let workersUsed = 0
  const tokens: number[] = []
  for await (const event of runs.run(request, signal)) {
    if (event.kind === 'planned') workersUsed = event.plan.workers.length
    else if (event.kind === 'logits') logits = new Float32Array(event.logits)
    else if (event.kind === 'token') tokens.push(event.token)
  }
  if (logits.length !== known.last_logits.length)
    throw new HeadraceError(
      'model_bad_config',
      `${known.last_logits.length} logits are expected, ${logits.length} came`,
    )
  const errors = known.last_logits.map((logit, i) => Math.abs(logit - logits[i]!))
  // A NaN must not hide: `Math.max` returns it, and no comparison with it holds.
  const maxLogitError = Math.max(...errors)
  const greedyAgrees = known.greedy_next_8.every((token, i) => tokens[i] === token)
  const ok = maxLogitError <= tolerance && greedyAgrees
  return { strategy, workersUsed, promptTokens: known.ids.length, maxLogitError, greedyAgrees, ok }
}

async function readExpected(file: string): Promise<Case[]> {
  try {
    return expectedSchema.parse(JSON.parse(await readFile(file, 'utf8'))).cases
  } catch (cause) {
    throw new HeadraceError('bad_config', `--expected ${file} cannot be read as reference numbers`, { cause })
  }
}

function print(findings: readonly Finding[], { json, tolerance, engine, model }: VerifyArgs): void {
  if (json) {
    const ok = findings.every((finding) => finding.ok)
    process.stdout.write(`${JSON.stringify({ model, engine, tolerance, ok, findings }, undefined, 2)}\n`)
    return
  }
  const rows = findings.map(({ strategy, workersUsed, promptTokens, maxLogitError, greedyAgrees, ok }) => [
    strategy,
    String(workersUsed),
    String(promptTokens),
    maxLogitError.toExponential(1),
    greedyAgrees ? 'equal' : 'DIFFERENT',
    ok ? 'ok' : 'BEYOND TOLERANCE',
  ])
  const head = ['strategy', 'workers', 'prompt tokens', 'largest logit error', 'greedy', 'verdict']
  process.stdout.write(`${table(head, rows)}\n`)
}
