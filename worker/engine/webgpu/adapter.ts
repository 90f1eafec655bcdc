import { asHeadraceError, HeadraceError } from '../../../shared/errors.ts'
import { GraphBuilder } from '../onnx/graph-builder.ts'
import { DeviceSessions, hostTensor } from './device-sessions.ts'

export interface Adapter {
  /** It computes with float16. */
  readonly f16: boolean
}

/**
 * What the GPU that WebGPU picks can do. The binding tells nothing about adapters, so a small graph is run.
 * @throws HeadraceError `no_device` if there is none
 */
export async function probeAdapter(): Promise<Adapter> {
  try {
    await square('float32')
  } catch (thrown) {
    const cause = asHeadraceError(thrown)
    throw new HeadraceError('no_device', `no GPU that WebGPU can use: ${reason(cause.message)}`, { cause })
  }
  return { f16: await square('float16').then(always, never) }
}

const always = (): boolean => true
const never = (): boolean => false

async function square(type: 'float32' | 'float16'): Promise<void> {
  const g = new GraphBuilder()
  const x = g.op('Cast', [g.op('Exp', [g.input('x', ['N'])])], { to: { type } })
  g.output('y', g.op('Cast', [g.op('Mul', [x, x])], { to: { type: 'float32' } }), ['N'])
  const sessions = new DeviceSessions('webgpu')
  try {
    await sessions.add('square', g.build('square'), true)
    await sessions.run('square', { x: hostTensor(Float32Array.of(0, 1), [2]) })
  } finally {
    await sessions.release()
  }
}

/** The first line is the driver's or the provider's; what follows is where in its source. */
const reason = (message: string): string => message.split('\n')[0]!.slice(0, 200)
