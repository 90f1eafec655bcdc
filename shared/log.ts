import { pino } from 'pino'
import { stringFromEnv } from './env.ts'

/** One JSON line per event on standard error, so that standard output stays free for answers. */
export type Log = import('pino').Logger

export function createLog(name: string, level: string = stringFromEnv('HEADRACE_LOG_LEVEL') ?? 'info'): Log {
  return pino({ name, level, base: { name } }, pino.destination({ dest: 2, sync: true }))
}
