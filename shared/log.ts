import { pino } from 'pino'

/** One JSON line per event on standard error, so that standard output stays free for answers. */
export type Log = import('pino').Logger

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

export function createLog(name: string, level: string): Log {
  return pino({ name, level, base: { name } }, pino.destination({ dest: 2, sync: true }))
}
