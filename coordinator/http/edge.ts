import { isLoopback } from '../../shared/link/connection-cap.ts'
import { realClock } from '../../shared/link/real-clock.ts'
import type { Log } from '../../shared/log.ts'
import { KeyRing } from '../keys/key-ring.ts'
import type { Access, AccessPolicy } from './access.ts'

/** Who may use the API of a coordinator, and how, as its command line says it. */
export interface EdgeConfig {
  /** File of API keys; absent: whoever reaches the port may ask. */
  readonly apiKeys: string | undefined
  readonly metricsAccess: Access | undefined
  readonly healthAccess: Access
  readonly strangerRequestsPerMinute: number
  readonly cors: readonly string[]
  readonly logPrompts: boolean
}

export interface EdgeDeps {
  readonly access: AccessPolicy
  readonly cors: readonly string[]
  readonly logPrompts: boolean
}

/** Opens the key file, and says in the log what a stranger on the network could do. Throws `bad_config`. */
export async function openEdge(config: EdgeConfig, host: string, log: Log): Promise<EdgeDeps> {
  const { apiKeys, healthAccess: health, strangerRequestsPerMinute, cors, logPrompts } = config
  const keys = apiKeys === undefined ? undefined : await KeyRing.open(apiKeys, realClock, log)
  const metrics = config.metricsAccess ?? (keys === undefined ? 'open' : 'key')
  if (keys === undefined && host !== 'localhost' && !isLoopback(host))
    log.warn({ host }, 'whoever reaches this address may use the API: --api-keys FILE asks for keys')
  if (logPrompts) log.warn('prompts go to the log (--log-prompts)')
  return {
    access: { ...(keys !== undefined && { keys }), metrics, health, strangerRequestsPerMinute },
    cors,
    logPrompts,
  }
}
