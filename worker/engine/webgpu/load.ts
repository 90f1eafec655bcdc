import { HeadraceError } from '../../../shared/errors.ts'
import { readModelShape } from '../../../shared/model-folder.ts'
import type { Engine, EngineOptions } from '../engine.ts'
import { GraphBuilder } from '../onnx/graph-builder.ts'
import { probeAdapter } from './adapter.ts'
import { DEVICE_GRAPHS, EXPERT_GRAPHS, LEAVING_GRAPHS } from './device-graphs.ts'
import type { DeviceModel } from './device-model.ts'
import { DeviceSessions, type Provider } from './device-sessions.ts'
import { type DeviceWeights, loadDeviceWeights } from './device-weights.ts'
import { DeviceWire } from './device-wire.ts'
import { WebGpuEngine } from './webgpu-engine.ts'

/** A GPU wants more rows at once than a core: chunks are as long as KV blocks are in a cluster, or twice that. */
const CHUNK_TOKENS = 1024

/**
 * The ONNX engine on a GPU, with the model of a folder. Weights are float16 where the adapter computes with it, unless
 * float32 is asked for.
 * @throws HeadraceError `no_device` if this machine offers no adapter
 */
export async function loadWebGpuEngine(folder: string, { weights, threads, head }: EngineOptions): Promise<Engine> {
  if (weights !== undefined && weights !== 'f32')
    throw new HeadraceError('bad_config', `a GPU keeps weights as f16 or f32, not as ${weights}`)
  const shape = await readModelShape(folder)
  const adapter = await probeAdapter()
  const element = adapter.f16 && weights === undefined ? 'float16' : 'float32'
  const load = (sessions: DeviceSessions) => loadDeviceWeights(folder, shape, sessions, head)
  return buildDeviceEngine({ model: { shape, element }, provider: 'webgpu', threads, load })
}

/** The same on any provider, with weights from anywhere. */
export async function buildDeviceEngine(of: {
  model: DeviceModel
  provider: Provider
  threads: number
  chunkTokens?: number
  load: (sessions: DeviceSessions) => Promise<DeviceWeights>
}): Promise<WebGpuEngine> {
  const { model, provider, threads, chunkTokens = CHUNK_TOKENS, load } = of
  const sessions = new DeviceSessions(provider)
  const staying = { ...DEVICE_GRAPHS, ...(model.shape.experts && EXPERT_GRAPHS) }
  for (const [kind, graph] of Object.entries(staying)) await sessions.add(kind, graph(model, new GraphBuilder()))
  for (const [kind, graph] of Object.entries(LEAVING_GRAPHS))
    await sessions.add(kind, graph(model, new GraphBuilder()), true)
  const weights = await load(sessions)
  const wire = await DeviceWire.create(model.shape, sessions, threads)
  return new WebGpuEngine({ model, sessions, weights, wire, chunkTokens })
}
