import { cpus } from 'node:os'
import { HeadraceError } from '../../../shared/errors.ts'

/** The cores of a measured program: one for each thread, from `first` on, as taskset writes them. */
export function coresFrom(first: number, threads: number): string {
  const cores = cpus().length
  if (first + threads > cores)
    throw new HeadraceError('bad_config', `${threads} threads from core ${first} on: this machine has ${cores} cores`)
  return threads === 1 ? String(first) : `${first}-${first + threads - 1}`
}
