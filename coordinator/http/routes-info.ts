import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { HeadraceError } from '../../shared/errors.ts'
import { observeCluster } from '../cluster-metrics.ts'
import type { Runs } from '../runs/events.ts'
import { planOf } from './answer.ts'
import { checkModel } from './ask.ts'
import { clusterView } from './cluster-view.ts'
import type { ServerDeps } from './deps.ts'
import { parseWith, sendError } from './errors.ts'
import { planQuerySchema, readyQuerySchema } from './schemas.ts'

/** What can be asked without a prompt: the model, the cluster's health and shape, and what a plan would be. */
export function infoRoutes(app: FastifyInstance, deps: ServerDeps): void {
  modelRoutes(app, deps)
  healthRoutes(app, deps)

  app.get('/metrics', async (_request, reply) => {
    observeCluster(deps.metrics, deps.runs, deps.model.layers)
    void reply.type(deps.metrics.registry.contentType)
    return deps.metrics.registry.metrics()
  })

  app.get('/v1/plan', (request) => {
    const { prompt_tokens, strategy, workers } = parseWith(planQuerySchema, request.query)
    const { name, contextLength } = deps.model
    if (prompt_tokens > contextLength)
      throw new HeadraceError(
        'context_length_exceeded',
        `This model's maximum context length is ${contextLength} tokens; prompt_tokens is ${prompt_tokens}.`,
        { details: { param: 'prompt_tokens', contextLength } },
      )
    const { chosen, candidates } = deps.runs.plan(prompt_tokens, {
      ...(strategy === undefined ? {} : { strategy }),
      ...(workers === undefined ? {} : { workers }),
    })
    return { object: 'plan', model: name, prompt_tokens, chosen: planOf(chosen), candidates: candidates.map(planOf) }
  })

  app.get('/v1/cluster', () => clusterView(deps))
}

function modelRoutes(app: FastifyInstance, { model, runs, ...deps }: ServerDeps): void {
  const created = Math.floor(Date.now() / 1000)
  const entry = () => ({
    id: model.name,
    object: 'model',
    created,
    owned_by: 'local',
    max_model_len: model.contextLength,
    meta: { n_vocab: model.vocab, n_ctx_train: model.contextLength, n_params: model.params, size: model.bytes },
    status: { value: runs.unready() === undefined ? 'loaded' : 'loading' },
  })
  app.get('/v1/models', () => ({ object: 'list', data: [entry()] }))
  // A name may hold slashes (`owner/model`), which not every client encodes.
  app.get<{ Params: { '*': string } }>('/v1/models/*', (request) => {
    checkModel({ model, runs, ...deps }, request.params['*'])
    return entry()
  })
}

/**
 * `/live`: the process answers. `/health` and `/ready`: a prompt sent now would be computed; with `workers=N`, by no fewer
 * workers and decode nodes together.
 */
function healthRoutes(app: FastifyInstance, { runs }: ServerDeps): void {
  const ready = ({ query }: FastifyRequest, reply: FastifyReply) => {
    const { workers } = parseWith(readyQuerySchema, query)
    const unready = runs.unready() ?? tooFew(runs, workers)
    if (unready === undefined) return { status: 'ok' }
    sendError(reply, unready)
    return reply
  }
  app.get('/live', () => ({ status: 'ok' }))
  app.get('/health', ready)
  app.get('/ready', ready)
}

function tooFew(runs: Runs, least = 0): HeadraceError | undefined {
  const ready = runs.cluster().workers.filter(({ state }) => state === 'ready').length
  return ready >= least ? undefined : new HeadraceError('no_workers', `${ready} of ${least} workers are ready`)
}
