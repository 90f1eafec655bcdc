import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism, cpus } from 'node:os'
import { dirname, join } from 'node:path'
import { asHeadraceError } from '../../shared/errors.ts'
import { probeAdapter } from '../engine/webgpu/adapter.ts'
import { instructionSets } from './instruction-sets.ts'
import { productGflops, type SpeedElement } from './product-speed.ts'

/** What a machine can compute with, and what keeps it from it. */
export interface DeviceFacts {
  readonly device: 'cpu' | 'webgpu' | 'cuda'
  readonly name: string
  readonly available: boolean
  /** Cores and instruction sets, or why there is none. */
  readonly about: string
  /** Measured, 1e9 operations a second. */
  readonly gflops: Readonly<Partial<Record<SpeedElement, number>>>
}

/** All of them, each measured for about so many seconds. */
export async function findDevices(secondsEach: number): Promise<DeviceFacts[]> {
  return [await cpuFacts(secondsEach), await webGpuFacts(secondsEach), await cudaFacts(secondsEach)]
}

async function cpuFacts(seconds: number): Promise<DeviceFacts> {
  const threads = availableParallelism()
  const sets = instructionSets()
  const float32 = await productGflops('cpu', 'float32', threads, seconds / 2)
  const int8 = await productGflops('cpu', 'int8', threads, seconds / 2)
  return {
    device: 'cpu',
    name: cpus()[0]?.model.trim() ?? process.arch,
    available: true,
    about: [`${threads} ${threads === 1 ? 'core' : 'cores'}`, ...sets].join(', '),
    gflops: { float32, int8 },
  }
}

async function webGpuFacts(seconds: number): Promise<DeviceFacts> {
  const named = { device: 'webgpu', name: 'the GPU that WebGPU picks' } as const
  try {
    const { f16 } = await probeAdapter()
    const float32 = await productGflops('webgpu', 'float32', 1, f16 ? seconds / 2 : seconds)
    const half = f16 ? { float16: await productGflops('webgpu', 'float16', 1, seconds / 2) } : {}
    const about = f16 ? 'computes with float16' : 'float32 only'
    return { ...named, available: true, about, gflops: { float32, ...half } }
  } catch (thrown) {
    return { ...named, available: false, about: asHeadraceError(thrown).message, gflops: {} }
  }
}

/** ONNX Runtime brings it as a library of its own, which is not part of the package. */
async function cudaFacts(seconds: number): Promise<DeviceFacts> {
  const named = { device: 'cuda', name: 'the GPU that CUDA picks' } as const
  const library = cudaLibrary()
  if (!existsSync(library))
    return { ...named, available: false, about: "ONNX Runtime's CUDA library is not installed", gflops: {} }
  try {
    const float32 = await productGflops('cuda', 'float32', 1, seconds / 2)
    const float16 = await productGflops('cuda', 'float16', 1, seconds / 2)
    return { ...named, available: true, about: 'no engine here uses it yet', gflops: { float32, float16 } }
  } catch (thrown) {
    return { ...named, available: false, about: asHeadraceError(thrown).message, gflops: {} }
  }
}

function cudaLibrary(): string {
  const entry = createRequire(import.meta.url).resolve('onnxruntime-node')
  const folder = join(dirname(dirname(entry)), 'bin', 'napi-v6', process.platform, process.arch)
  return join(
    folder,
    process.platform === 'win32' ? 'onnxruntime_providers_cuda.dll' : 'libonnxruntime_providers_cuda.so',
  )
}
