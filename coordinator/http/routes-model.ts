import type { TLSSocket } from 'node:tls'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { HeadraceError } from '../../shared/errors.ts'
import { BLOB_PATH, serveBlob } from '../../shared/model-store/serve-blob.ts'
import type { ServerDeps } from './deps.ts'

/** The model's files, for workers that have none: addressed by their hash, so that no path is ever taken from a request. */
export function modelShareRoutes(app: FastifyInstance, { share, metrics, authority }: ServerDeps): void {
  if (share === undefined) return
  // The weights are for members: where there are certificates, this is one of the paths that ask for one.
  const onRequest = async (request: FastifyRequest): Promise<void> => {
    authority?.membership.peerOf(request.raw.socket as TLSSocket)
  }
  app.get('/v1/model/manifest', { onRequest }, (_request, reply) => reply.type('application/json').send(share.manifest))

  app.get<{ Params: { sha256: string } }>(`${BLOB_PATH}:sha256`, { onRequest }, async (request, reply) => {
    const { sha256 } = request.params
    if (share.shelf.get(sha256) === undefined)
      throw new HeadraceError('not_found', 'no file of the model has this hash')
    reply.hijack()
    metrics.weightsSentBytes.inc(await serveBlob(share.shelf, sha256, request.raw, reply.raw))
  })
}
