import type { Target } from './target.ts'
import { commands } from './targets/agent.ts'
import { joinAnswers, joinRequests } from './targets/enrolment.ts'
import { deliveries, joins, subscriptions } from './targets/exchange.ts'
import { frames, messages } from './targets/frames.ts'
import { api, bodies } from './targets/http.ts'
import { config, template, tokenizer } from './targets/model.ts'
import { manifests, traces } from './targets/records.ts'
import { gguf, safetensors } from './targets/weights.ts'

/** All that reads bytes which somebody else wrote. */
export const TARGETS: readonly Target[] = [
  frames,
  messages,
  bodies,
  api,
  joins,
  subscriptions,
  deliveries,
  commands,
  joinRequests,
  joinAnswers,
  traces,
  manifests,
  gguf,
  safetensors,
  config,
  tokenizer,
  template,
]

export function targetOf(name: string): Target {
  const target = TARGETS.find((each) => each.name === name)
  if (target === undefined) throw new TypeError(`no target ${name}: ${TARGETS.map((each) => each.name).join(', ')}`)
  return target
}

/** How many of `inputs` each target gets: one at least. */
export function sharesOf(inputs: number, targets: readonly Target[] = TARGETS): { target: string; count: number }[] {
  const total = targets.reduce((sum, { weight }) => sum + weight, 0)
  return targets.map(({ name, weight }) => ({
    target: name,
    count: Math.max(1, Math.round((inputs * weight) / total)),
  }))
}
