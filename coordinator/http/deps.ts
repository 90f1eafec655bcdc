import type { Clock } from '../../shared/clock.ts'
import type { Log } from '../../shared/log.ts'
import type { CoordinatorMetrics } from '../metrics.ts'
import type { ModelShare } from '../models/model-share.ts'
import type { Runs } from '../runs/events.ts'
import type { Authority } from '../security/authority.ts'
import type { ChatTemplate } from '../tokenizer/chat-template.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { RunStore } from '../trace/store.ts'
import type { AccessPolicy } from './access.ts'
import type { KeptAnswers } from './kept-answers.ts'

/** What the API tells about the model and checks requests against. */
export interface ModelFacts {
  readonly name: string
  readonly layers: number
  readonly contextLength: number
  readonly vocab: number
  readonly params: number
  readonly bytes: number
  readonly eosTokens: readonly number[]
  readonly fingerprint: string
}

export interface ServerDeps {
  readonly runs: Runs
  readonly tokenizer: Tokenizer
  readonly template: ChatTemplate
  readonly model: ModelFacts
  /** Runs that have finished. */
  readonly store: RunStore
  /** Absent: nothing of the model is given away. */
  readonly share?: ModelShare
  /** Absent: the API and the links have no TLS. */
  readonly authority?: Authority | undefined
  readonly metrics: CoordinatorMetrics
  readonly log: Log
  readonly clock: Clock
  /** Answers that clients may ask for again. */
  readonly kept: KeptAnswers
  /** Default: everybody may ask for everything. */
  readonly access?: AccessPolicy
  /** Origins of web pages that may read answers. Default: none. */
  readonly cors?: readonly string[]
  /** Only then does a prompt appear in the log. */
  readonly logPrompts?: boolean
  /** A stream that says nothing for so long gets a comment, so that proxies keep it open. Default 15. */
  readonly pingSeconds?: number
  /** For all of a request's header (default 10), and for the whole request (default 30). */
  readonly headerSeconds?: number
  readonly requestSeconds?: number
  /** Default 32 MiB. */
  readonly bodyLimitBytes?: number
}
