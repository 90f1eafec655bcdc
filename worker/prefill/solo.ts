import type { Routes } from './exchange.ts'

/** One worker computes the whole prompt: nothing to wait for, nothing to pass on. */
export const soloRoutes: Routes = {
  source: () => undefined,
  target: () => undefined,
  relays: () => false,
  origins: () => [],
}
