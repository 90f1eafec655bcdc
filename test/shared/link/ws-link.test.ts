import { HeadraceError } from '../../../shared/errors.ts'
import type { Link } from '../../../shared/link/link.ts'
import { wsDialer } from '../../../shared/link/ws-link.ts'
import { listenLinks } from '../../../shared/link/ws-server.ts'
import { linkContract } from '../../contract/link.contract.ts'

linkContract('a link over ws', async (limits, farLimits = limits) => {
  const accepted: Link[] = []
  const server = await listenLinks({
    host: '127.0.0.1',
    port: 0,
    path: '/link',
    limits: farLimits,
    onLink: (link) => accepted.push(link),
  })
  const near = await wsDialer.dial(server.url, limits, new AbortController().signal)
  const far = accepted[0]
  if (far === undefined) throw new HeadraceError('internal', 'dialled, but not accepted')
  return { near, far, release: () => server.close() }
})
