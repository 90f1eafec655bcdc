import type { PrefillAssignment } from '../../shared/protocol/control.ts'
import { chainRoutes } from './chain.ts'
import type { Routes } from './exchange.ts'
import { ringRoutes } from './ring.ts'
import { soloRoutes } from './solo.ts'

const ROUTES: Record<PrefillAssignment['strategy'], Routes> = { solo: soloRoutes, chain: chainRoutes, ring: ringRoutes }

export const routesOf = (a: PrefillAssignment): Routes => ROUTES[a.strategy]
