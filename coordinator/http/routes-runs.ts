import type { FastifyInstance } from 'fastify'
import { HeadraceError } from '../../shared/errors.ts'
import { chromeTrace } from '../trace/chrome.ts'
import type { StoredRun } from '../trace/store.ts'
import type { ServerDeps } from './deps.ts'

/** Runs that have finished: which there were, and what each of them did when. */
export function runRoutes(app: FastifyInstance, { store }: ServerDeps): void {
  app.get('/v1/runs', () => ({ object: 'list', data: store.recent().map(runView) }))

  app.get<{ Params: { id: string } }>('/v1/runs/:id/trace', (request) => {
    const { id } = request.params
    const run = store.get(id)
    if (run === undefined) throw new HeadraceError('run_not_found', `no run \`${id.slice(0, 64)}\` is kept`)
    return chromeTrace(run.report)
  })
}

const runView = ({ created, report }: StoredRun) => ({
  id: report.run,
  object: 'run',
  created,
  prompt_tokens: report.promptTokens,
  completion_tokens: report.completionTokens,
  strategy: report.plan.strategy,
  workers: report.plan.workers.map(({ worker }) => worker),
  queue_seconds: report.queueSeconds,
  ttft_seconds: report.ttftSeconds,
  bottleneck: report.bottleneck,
})
