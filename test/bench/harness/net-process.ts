import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { stopSignal } from '../../../shared/cli/process.ts'
import { type Endpoint, type ProxyRoute, startProxy } from './proxy.ts'

/**
 * What runs in a host of a simulated network beside Headrace, each as a process: `proxy ROUTES`, `source ENDPOINT`,
 * `sink ENDPOINT` (arguments are JSON). Says `ready`, or the sink what it has measured, and ends with its parent.
 */

/** What `sink` prints. */
export interface LinkMeasured {
  readonly bytesPerSecond: number
  readonly rttSeconds: number
}

const MEASURE_SECONDS = 1
const ROUND_TRIPS = 5

const [what, given] = process.argv.slice(2)
const stopped = stopSignal()
stopped.addEventListener('abort', () => process.exit(0), { once: true })
if (what === 'proxy') await Promise.all((JSON.parse(given!) as ProxyRoute[]).map(startProxy))
if (what === 'source') await startSource(JSON.parse(given!) as Endpoint)
process.stdout.write(what === 'sink' ? `${JSON.stringify(await measure(JSON.parse(given!) as Endpoint))}\n` : 'ready\n')
if (what === 'sink') process.exit(0)

/** Answers a single byte with one, anything longer with bytes without end. */
async function startSource({ host, port }: Endpoint): Promise<void> {
  const bulk = Buffer.alloc(256 * 1024)
  const server = createServer({ noDelay: true }, (socket) => {
    const pour = (): void => {
      while (socket.write(bulk));
    }
    socket.on('data', (asked) => {
      if (asked.length === 1) return void socket.write(asked)
      socket.on('drain', pour)
      pour()
    })
    socket.on('error', () => socket.destroy())
  })
  server.listen(port, host)
  await once(server, 'listening')
}

/** The least of a few round trips, then the payload rate of a second, its first fifth (the ramp) left out. */
async function measure(from: Endpoint): Promise<LinkMeasured> {
  const socket = connect({ ...from, noDelay: true })
  await once(socket, 'connect')
  let rttSeconds = Number.POSITIVE_INFINITY
  for (let i = 0; i < ROUND_TRIPS; i++) {
    const sent = performance.now()
    socket.write('?')
    await once(socket, 'data')
    rttSeconds = Math.min(rttSeconds, (performance.now() - sent) / 1000)
  }
  socket.write('go')
  const started = performance.now()
  let counted = 0
  let since = 0
  for await (const piece of socket as AsyncIterable<Buffer>) {
    const elapsed = (performance.now() - started) / 1000
    if (since === 0 && elapsed > MEASURE_SECONDS / 5) since = elapsed
    else if (since > 0) counted += piece.length
    if (elapsed > MEASURE_SECONDS) return { bytesPerSecond: counted / (elapsed - since), rttSeconds }
  }
  throw new Error('the source ended the connection')
}
