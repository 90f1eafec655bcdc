import type { FastifyReply } from 'fastify'
import { HeadraceError } from '../../shared/errors.ts'

/** A controller that aborts as soon as the client closes the connection before its answer is complete. */
export function clientGone({ raw }: FastifyReply): AbortController {
  const gone = new AbortController()
  const leave = () => gone.abort(new HeadraceError('cancelled', 'the client closed the connection'))
  if (raw.destroyed) leave()
  else
    raw.once('close', () => {
      if (!raw.writableFinished) leave()
    })
  return gone
}
