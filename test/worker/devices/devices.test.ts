import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { devicesText } from '../../../worker/devices/devices-text.ts'
import { findDevices } from '../../../worker/devices/find-devices.ts'
import { setsOfCpuInfo, setsOfSysctl } from '../../../worker/devices/instruction-sets.ts'

describe('instruction sets', () => {
  test('are read as each system names them', () => {
    const x86 = 'processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8\n\nprocessor\t: 1\n'
    assert.deepEqual(setsOfCpuInfo(x86), ['AVX2', 'AVX-512', 'AVX512-VNNI', 'AMX-INT8'])
    assert.deepEqual(setsOfCpuInfo('Features\t: fp asimd asimddp i8mm\n'), ['NEON', 'DOTPROD', 'I8MM'])
    assert.deepEqual(setsOfCpuInfo('hello'), [])
    const intelMac = 'machdep.cpu.features: FPU SSE2\nmachdep.cpu.leaf7_features: BMI1 AVX2 AVX512F\n'
    assert.deepEqual(setsOfSysctl(intelMac), ['AVX2', 'AVX-512'])
    const appleMac = 'hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.optional.arm.FEAT_BF16: 1\n'
    assert.deepEqual(setsOfSysctl(appleMac), ['DOTPROD', 'BF16'])
  })
})

describe('devices', () => {
  const cpu = { device: 'cpu', name: 'A processor', available: true, about: '2 cores, AVX2' } as const
  const gpu = { device: 'webgpu', name: 'the GPU', available: true, about: 'computes with float16' } as const

  test('are a table with what to do about it', () => {
    const found = [
      { ...cpu, gflops: { float32: 95.44, int8: 330.2 } },
      { ...gpu, gflops: { float32: 20_100, float16: 28_700 } },
    ]
    assert.deepEqual(devicesText(found).split('\n'), [
      'device  float32  float16  int8  what it is',
      '------  -------  -------  ----  ----------',
      'cpu        95.4        -   330  A processor: 2 cores, AVX2',
      'webgpu    20100    28700     -  the GPU: computes with float16',
      '',
      'GFLOP/s of a matrix product through ONNX Runtime, measured just now.',
      'Start workers with --device webgpu here.',
    ])
  })

  test('say so when a GPU is none or is slower than the CPU', () => {
    const slow = devicesText([
      { ...cpu, gflops: { float32: 90 } },
      { ...gpu, gflops: { float32: 1 } },
    ])
    assert.match(slow, /faster on the CPU than with --device webgpu/)
    const none = devicesText([
      { ...cpu, gflops: { float32: 90 } },
      { ...gpu, available: false, about: 'no driver', gflops: {} },
    ])
    assert.match(none, /none: no driver/)
    assert.match(none, /A worker computes on the CPU here/)
  })

  test('of this machine are measured, and what is not there has no numbers', async () => {
    const found = await findDevices(0.2)
    assert.deepEqual(
      found.map(({ device }) => device),
      ['cpu', 'webgpu', 'cuda'],
    )
    for (const { available, about, gflops } of found) {
      assert.ok(about.length > 0)
      assert.equal(Object.keys(gflops).length > 0, available)
      for (const value of Object.values(gflops)) assert.ok(value > 0)
    }
    assert.ok(found[0]!.gflops.float32! > 0.1 && found[0]!.gflops.int8! > 0.1)
  })
})
