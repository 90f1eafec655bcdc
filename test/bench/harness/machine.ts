import { createRequire } from 'node:module'
import { availableParallelism, cpus, loadavg, release, totalmem, type } from 'node:os'

/** Where and on what a benchmark ran: figures without it mean nothing. */
export interface MachineFacts {
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
  readonly system: string
  readonly node: string
  readonly onnxruntime: string
  /** Over 1, 5 and 15 minutes, before the first run. */
  readonly loadBefore: readonly number[]
  readonly at: string
}

export function machineFacts(): MachineFacts {
  const onnxruntime = createRequire(import.meta.url)('onnxruntime-node/package.json') as { version: string }
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    system: `${type()} ${release()}`,
    node: process.version,
    onnxruntime: onnxruntime.version,
    loadBefore: loadavg(),
    at: new Date().toISOString(),
  }
}

export function machineText(facts: MachineFacts): string {
  const memory = `${(facts.memoryBytes / 2 ** 30).toFixed(1)} GiB`
  const load = facts.loadBefore.map((value) => value.toFixed(2)).join(' ')
  const versions = `Node ${facts.node.slice(1)}, onnxruntime-node ${facts.onnxruntime}`
  const lines = [`${facts.cpu}, ${facts.cores} cores, ${memory}, ${facts.system}`, `${versions}; load before ${load}`]
  if (facts.loadBefore[0]! > QUIET_LOAD)
    lines.push('The machine is NOT quiet: times are too long, and ratios lean to whatever uses fewer cores.')
  return lines.join('\n')
}

/** Above this, something else is computing. */
const QUIET_LOAD = 0.5
