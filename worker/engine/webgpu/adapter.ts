import { asHeadraceError, HeadraceError } from '../../../shared/errors.ts'
import { GraphBuilder } from '../onnx/graph-builder.ts'
import { DeviceSessions, hostTensor } from './device-sessions.ts'

export interface Adapter {
  /** It computes with float16. */
  readonly f16: boolean
}

/** Never released: the device is given up with its last session, and kernels would have to be compiled again. */
const sessions = new DeviceSessions('webgpu')
let probed: Promise<Adapter> | undefined

/**
 * What the GPU that WebGPU picks can do. The binding tells nothing about adapters, so a small graph is run, once.
 * @throws HeadraceError `no_device` if there is none
 */
export function probeAdapter(): Promise<Adapter> {
  probed ??= probe()
  return probed
}

async function probe(): Promise<Adapter> {
  try {
    await square('float32')
  } catch (thrown) {
    const cause = asHeadraceError(thrown)
    throw new HeadraceError('no_device', `no GPU that WebGPU can use: ${reasonOf(cause.message)}`, { cause })
  }
  return { f16: await square('float16').then(always, never) }
}

const always = (): boolean => true
const never = (): boolean => false

async function square(type: 'float32' | 'float16'): Promise<void> {
  const g = new GraphBuilder()
  const x = g.op('Cast', [g.op('Exp', [g.input('x', ['N'])])], { to: { type } })
  g.output('y', g.op('Cast', [g.op('Mul', [x, x])], { to: { type: 'float32' } }), ['N'])
  await sessions.add(type, g.build('square'), true)
  await sessions.run(type, { x: hostTensor(Float32Array.of(0, 1), [2]) })
}

/** What comes before is where in its source the provider found that something was not as it should be. */
const reasonOf = (message: string): string => message.split('was false. ').at(-1)!.split('\n')[0]!.trim()
