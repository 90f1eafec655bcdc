import type { DeviceFacts } from './find-devices.ts'

/** What was found, as a table and what to do with it. */
export function devicesText(devices: readonly DeviceFacts[]): string {
  const head = ['device', 'float32', 'float16', 'int8', 'what it is']
  const rows = devices.map(({ device, name, available, about, gflops }) => [
    device,
    ...(['float32', 'float16', 'int8'] as const).map((element) => speedText(gflops[element])),
    available ? `${name}: ${about}` : `none: ${about}`,
  ])
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]!.length)))
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => (i > 0 && i < 4 ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd()
  const last = widths.length - 1
  const rule = widths.map((width, i) => '-'.repeat(i === last ? head[last]!.length : width)).join('  ')
  return [
    line(head),
    rule,
    ...rows.map(line),
    '',
    'GFLOP/s of a matrix product through ONNX Runtime, measured just now.',
    advice(devices),
  ].join('\n')
}

const speedText = (gflops: number | undefined): string => {
  if (gflops === undefined) return '-'
  return gflops < 100 ? gflops.toFixed(1) : gflops.toFixed(0)
}

/** A GPU that a processor plays, as in tests, is slower than the processor. */
function advice(devices: readonly DeviceFacts[]): string {
  const best = (device: DeviceFacts['device']): number =>
    Math.max(0, ...devices.filter((one) => one.device === device).flatMap(({ gflops }) => Object.values(gflops)))
  if (best('webgpu') === 0) return 'A worker computes on the CPU here.'
  return best('webgpu') > best('cpu')
    ? 'Start workers with --device webgpu here.'
    : 'A worker computes faster on the CPU than with --device webgpu here.'
}
