import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { Log } from '../log.ts'

/** How every Headrace process ends: on a signal, with the program that started it, or with one line that says why. */

/** Aborted by SIGINT, SIGTERM, or the end of the parent process, if that keeps a channel to this one. */
export function stopSignal(): AbortSignal {
  const controller = new AbortController()
  const stop = (cause: string) => () => controller.abort(new HeadraceError('shutting_down', `stopping: ${cause}`))
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, stop(name))
  process.once('disconnect', stop('the parent process has ended'))
  // Listening to the parent alone is no reason to stay.
  process.channel?.unref()
  return controller.signal
}

/** Resolves when `signal` is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}

/** Says on standard error why the program ends, in one line with the code, and sets the exit status. */
export function reportFatal(thrown: unknown, log?: Log): void {
  const error = asHeadraceError(thrown)
  if (error.code === 'internal') log?.error({ err: error.cause ?? error }, error.message)
  process.stderr.write(`headrace: ${error.message} [${error.code}]\n`)
  process.exitCode = 1
}
