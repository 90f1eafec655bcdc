import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import type { Clock } from '../../shared/clock.ts'
import { abortError, HeadraceError } from '../../shared/errors.ts'

/** Server-sent events: one `data:` line and a position each, comments while silent, never more in memory than the socket's buffer. */
export interface SseStream {
  /**
   * Resolves when the client's socket has room again; rejects with the coded reason once the client is gone.
   * @param id what `Last-Event-ID` will say to go on behind this event
   */
  send(data: string, id?: string): Promise<void>
  end(): void
}

/** A client that takes nothing for so long is treated as gone. */
const DRAIN_SECONDS = 30

const HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache',
  'x-accel-buffering': 'no', // nginx would collect the events
}

/** Sends the headers at once, after those that are set already. `gone` is the request's controller: the stream aborts it when the client stops reading. */
export function openSse(
  response: ServerResponse,
  { clock, pingSeconds, gone }: { clock: Clock; pingSeconds: number; gone: AbortController },
): SseStream {
  const ended = new AbortController()
  let lastWrite = clock.now()

  // A write that crosses with the client's leaving fails on the response itself, at any time until it is closed.
  response.on('error', (error) => gone.abort(new HeadraceError('cancelled', error.message, { cause: error })))
  response.writeHead(200, HEADERS)
  response.flushHeaders()
  ping().catch((thrown: unknown) => {
    if (!ended.signal.aborted) gone.abort(thrown)
  })
  return {
    async send(data, id) {
      if (gone.signal.aborted) throw abortError(gone.signal)
      const name = id === undefined ? '' : `id: ${id}\n`
      if (!write(`${name}data: ${data}\n\n`)) await drained()
    },
    end() {
      ended.abort()
      response.end()
    },
  }

  function write(text: string): boolean {
    lastWrite = clock.now()
    return response.write(text)
  }

  async function ping(): Promise<void> {
    const stop = AbortSignal.any([ended.signal, gone.signal])
    while (!stop.aborted) {
      const silent = clock.now() - lastWrite
      if (silent < pingSeconds) await clock.sleep(pingSeconds - silent, stop)
      else if (response.writableNeedDrain) lastWrite = clock.now()
      else write(': keep-alive\n\n')
    }
  }

  async function drained(): Promise<void> {
    const waited = new AbortController()
    const signal = AbortSignal.any([waited.signal, gone.signal])
    const late = clock.sleep(DRAIN_SECONDS, signal).then(() => {
      gone.abort(new HeadraceError('cancelled', `the client took nothing for ${DRAIN_SECONDS} seconds`))
      response.destroy()
    })
    try {
      await Promise.race([once(response, 'drain', { signal }), late])
    } catch {
      // Only the client's leaving ends the wait by an error: the next line says so.
    } finally {
      waited.abort()
    }
    if (gone.signal.aborted) throw abortError(gone.signal)
  }
}
