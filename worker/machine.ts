import { hostname } from 'node:os'
import { isLoopback } from '../shared/link/connection-cap.ts'

/** Under these no other machine reaches anything: they tell nothing apart. */
const NOWHERE: ReadonlySet<string> = new Set(['localhost', '0.0.0.0', '::', '[::]', '[::1]'])

/**
 * What a worker calls its machine. Workers that say the same share processors and need no network card between them, which
 * the planner counts on. Machines of one image mostly bear one name, so the address that others use is a part of it.
 */
export const machineName = (address: string, name = hostname()): string =>
  isLoopback(address) || NOWHERE.has(address) ? name : `${name} (${address})`
