import { HeadraceError } from '../../shared/errors.ts'
import { kvBytesPerTokenLayer, type ModelShape } from '../../shared/model-shape.ts'
import { freeBytes } from '../cluster/facts.ts'
import { type ClusterState, readyDecode, readyPrefill } from '../cluster/state.ts'
import { spanSeconds } from '../planning/cost.ts'
import type { Memory } from './admission.ts'
import type { RunRequest } from './events.ts'
import type { Forecast } from './forecast.ts'
import type { QueuedRun, RunNeed } from './queue.ts'

/** What runs take of the cluster as it is at this moment. Pure, but for the state that is asked for. */

/** When nothing is known of any worker and no run has ended: an order like that of the lengths. */
const TOKENS_PER_SECOND = 1000

export function needOf({ promptTokens, maxTokens }: Asked, shape: ModelShape): RunNeed {
  const tokens = promptTokens.length
  return { tokens, kvBytes: shape.layers * kvBytesPerTokenLayer(shape) * (tokens + maxTokens) }
}

type Asked = Pick<RunRequest, 'promptTokens' | 'maxTokens'>

/**
 * @param forecast what runs have told of late
 * @returns seconds as if the workers shared the work in proportion to their speed and lost nothing: what the planner's
 *   candidates come to at best. It has to compare runs, and does not depend on what else is running.
 */
export function secondsOf(
  tokens: number,
  state: ClusterState,
  shape: ModelShape,
  forecast: Pick<Forecast, 'pace' | 'tokensPerSecond'>,
): number {
  const whole = { start: 0, end: tokens }
  const speed = readyPrefill(state).reduce((sum, { cost }) => sum + 1 / (shape.layers * spanSeconds(cost, whole)), 0)
  return speed > 0 && Number.isFinite(speed)
    ? forecast.pace.split / speed
    : tokens / (forecast.tokensPerSecond || TOKENS_PER_SECOND)
}

/** The budgets of the decode nodes. */
export const decodeMemory = (state: () => ClusterState): Memory => ({
  /** Throws `plan_impossible`. Without any decode node nothing is said: one may come, and the planner knows another code. */
  check(neededBytes) {
    const budgets = readyDecode(state()).map((node) => node.budgetBytes)
    const budgetBytes = Math.max(...budgets)
    if (budgets.length > 0 && neededBytes > budgetBytes)
      throw new HeadraceError(
        'plan_impossible',
        `the KV cache takes ${neededBytes} bytes, the decode node with most memory has ${budgetBytes} for runs`,
        { details: { neededBytes, budgetBytes } },
      )
  },
  room: ({ kvBytes }, started) => hasRoom(state(), kvBytes, started),
})

function hasRoom(state: ClusterState, neededBytes: number, started: readonly QueuedRun[]): boolean {
  const nodes = readyDecode(state)
  // What can never be is for the planner to refuse, not for others to wait behind.
  if (nodes.every(({ budgetBytes }) => budgetBytes < neededBytes)) return true
  const free = nodes.map(freeBytes)
  const reserved = nodes.flatMap((node) => [...node.reserved.keys()])
  for (const { run, kvBytes } of started) {
    // Reserved under the run's name, or that of one of its attempts.
    if (reserved.some((id) => id === run || id.startsWith(`${run}.`))) continue
    // It has its turn and no plan yet: it will go where most is free.
    const most = free.indexOf(Math.max(...free))
    free[most]! -= kvBytes
  }
  return Math.max(...free) >= neededBytes
}
