import { randomInt } from 'node:crypto'
import { HeadraceError } from '../../shared/errors.ts'
import type { RunRequest } from '../runs/events.ts'
import type { ServerDeps } from './deps.ts'
import type { CommonBody } from './schemas.ts'

/** What one request asks of the cluster and how it wants to be answered: the same for chat and completions. */
export interface Ask {
  readonly request: RunRequest
  readonly stops: readonly string[]
  readonly stream: boolean
  readonly includeUsage: boolean
  readonly progress: boolean
}

export function toAsk(
  deps: ServerDeps,
  body: CommonBody,
  part: { promptTokens: readonly number[]; maxTokens: number; logprobs: number | undefined },
): Ask {
  const { strategy, shares, workers = shares?.length } = body.headrace ?? {}
  const ignoreEos = body.headrace?.ignore_eos ?? body.ignore_eos ?? false
  return {
    request: {
      promptTokens: Int32Array.from(part.promptTokens),
      maxTokens: part.maxTokens,
      sampling: {
        temperature: body.temperature ?? 1,
        topP: body.top_p ?? 1,
        topK: body.top_k ?? 0,
        seed: body.seed ?? randomInt(2 ** 32),
        ...(part.logprobs === undefined ? {} : { logprobs: part.logprobs }),
      },
      stopTokens: ignoreEos ? [] : deps.model.eosTokens,
      ...(strategy === undefined ? {} : { strategy }),
      ...(workers === undefined ? {} : { workers }),
      ...(shares === undefined ? {} : { shares }),
    },
    stops: body.stop ?? [],
    stream: body.stream ?? false,
    includeUsage: body.stream_options?.include_usage ?? false,
    progress: body.return_progress ?? false,
  }
}

export function checkModel(deps: ServerDeps, model: string | undefined): void {
  if (model === undefined || model === deps.model.name) return
  throw new HeadraceError('model_not_found', `The model \`${model}\` is not served here; \`${deps.model.name}\` is.`, {
    details: { param: 'model' },
  })
}

/** What can be refused before anything is computed, so that also a stream's client gets a plain HTTP error. */
export function checkCluster(deps: ServerDeps, { promptTokens, strategy, workers }: RunRequest): void {
  const unready = deps.runs.unready()
  if (unready !== undefined) throw unready
  if (strategy === undefined && workers === undefined) return
  deps.runs.plan(promptTokens.length, {
    idle: true,
    ...(strategy === undefined ? {} : { strategy }),
    ...(workers === undefined ? {} : { workers }),
  })
}
