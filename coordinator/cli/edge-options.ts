import type { Argv } from 'yargs'
import { wholeNumber } from '../../shared/cli/options.ts'
import { ACCESS, type Access } from '../http/access.ts'
import { checkOrigin } from '../http/cors.ts'
import type { EdgeConfig } from '../http/edge.ts'
import { DEFAULT_QUEUE_LIMITS, type QueueLimits } from '../runs/queue.ts'

/** Flags that `coordinator` and `up` share: who may ask, and how much at once. */
export const withEdgeOptions = <T>(args: Argv<T>) =>
  args
    .option('api-keys', { type: 'string', describe: 'File of API keys (`headrace key`) [default: no key is needed]' })
    .option('cors', { type: 'string', array: true, default: [], describe: 'Origins of web pages that may ask' })
    .option('log-prompts', { type: 'boolean', default: false, describe: 'Write prompts to the log' })
    .option('max-prefilling', {
      ...number,
      default: MOST.maxPrefilling,
      describe: 'Prompts computed at a time; one on half of the workers is half a prompt',
    })
    .option('max-decoding', { ...number, default: MOST.maxDecoding, describe: 'Prompts and answers on their way' })
    .option('max-waiting', { ...number, default: MOST.maxWaiting, describe: 'Prompts that may wait' })
    .option('max-waiting-tokens', { ...number, default: MOST.maxWaitingTokens, describe: 'Their tokens in all' })
    .option('max-wait-seconds', { ...number, default: MOST.maxWaitSeconds, describe: 'Refuse who would wait longer' })

const number = { type: 'number' } as const
const MOST = DEFAULT_QUEUE_LIMITS

/** Those of the coordinator alone: `up` listens on loopback. */
export const withAccessOptions = <T>(args: Argv<T>) =>
  args
    .option('metrics-access', {
      choices: ACCESS,
      describe: '/metrics is for [default: key with --api-keys, else open]',
    })
    .option('health-access', {
      choices: ACCESS,
      default: 'open' as const,
      describe: '/health, /ready and /live are for',
    })
    .option('stranger-requests', {
      type: 'number',
      default: 300,
      describe: 'Requests a minute without a key from an address; this machine is exempt if no keys are asked for',
    })

export interface EdgeArgs {
  apiKeys?: string | undefined
  cors: string[]
  logPrompts: boolean
  maxPrefilling: number
  maxDecoding: number
  maxWaiting: number
  maxWaitingTokens: number
  maxWaitSeconds: number
}

export interface AccessArgs {
  metricsAccess?: Access | undefined
  healthAccess: Access
  strangerRequests: number
}

/** Throws `bad_config`. */
export function edgeConfig(args: EdgeArgs & AccessArgs): EdgeConfig {
  return {
    apiKeys: args.apiKeys,
    metricsAccess: args.metricsAccess,
    healthAccess: args.healthAccess,
    strangerRequestsPerMinute: wholeNumber('stranger-requests', args.strangerRequests, 1, 1e6),
    // One environment variable may hold several.
    cors: args.cors.flatMap((origins) => origins.split(/[\s,]+/)).map(checkOrigin),
    logPrompts: args.logPrompts,
  }
}

/** Throws `bad_config`. */
export function queueLimits(args: EdgeArgs): QueueLimits {
  return {
    ...DEFAULT_QUEUE_LIMITS,
    maxPrefilling: wholeNumber('max-prefilling', args.maxPrefilling, 1, 64),
    maxDecoding: wholeNumber('max-decoding', args.maxDecoding, 1, 1024),
    maxWaiting: wholeNumber('max-waiting', args.maxWaiting, 1, 65_536),
    maxWaitingTokens: wholeNumber('max-waiting-tokens', args.maxWaitingTokens, 1, 2 ** 31),
    maxWaitSeconds: wholeNumber('max-wait-seconds', args.maxWaitSeconds, 1, 86_400),
  }
}

/** The same flags for a coordinator that is started as a process of its own. */
export const edgeFlags = (args: EdgeArgs): string[] => [
  ...(args.apiKeys === undefined ? [] : ['--api-keys', args.apiKeys]),
  ...args.cors.flatMap((origin) => ['--cors', origin]),
  ...(args.logPrompts ? ['--log-prompts'] : []),
  ...['--max-prefilling', String(args.maxPrefilling), '--max-decoding', String(args.maxDecoding)],
  ...['--max-waiting', String(args.maxWaiting), '--max-waiting-tokens', String(args.maxWaitingTokens)],
  ...['--max-wait-seconds', String(args.maxWaitSeconds)],
]
