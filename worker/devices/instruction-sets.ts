import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

/**
 * The extensions of a processor that matrix products gain from, as its system names them: Linux on x86 and Arm, then
 * macOS.
 */
const KNOWN: Readonly<Record<string, string>> = {
  avx2: 'AVX2',
  avx512f: 'AVX-512',
  avx_vnni: 'AVX-VNNI',
  avx512_vnni: 'AVX512-VNNI',
  avx512_bf16: 'AVX512-BF16',
  amx_int8: 'AMX-INT8',
  amx_bf16: 'AMX-BF16',
  asimd: 'NEON',
  asimddp: 'DOTPROD',
  i8mm: 'I8MM',
  bf16: 'BF16',
  sve: 'SVE',
  feat_dotprod: 'DOTPROD',
  feat_i8mm: 'I8MM',
  feat_bf16: 'BF16',
}

/** Those of this machine; none where the system does not tell. */
export function instructionSets(): string[] {
  try {
    if (process.platform === 'linux') return setsOfCpuInfo(readFileSync('/proc/cpuinfo', 'utf8'))
    if (process.platform === 'darwin') return setsOfSysctl(execFileSync('sysctl', ['-a'], { encoding: 'utf8' }))
  } catch {
    // nothing is said rather than something made up
  }
  return []
}

/** Of the first processor of `/proc/cpuinfo`. */
export function setsOfCpuInfo(text: string): string[] {
  const [, flags = ''] = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(text) ?? []
  return named(flags.split(/\s+/))
}

/** Of `sysctl -a`: a list for Intel processors, a line for each feature for Apple's. */
export function setsOfSysctl(text: string): string[] {
  const listed = [...text.matchAll(/^machdep\.cpu\.\w*features: (.*)$/gm)].flatMap(([, list]) => list!.split(/\s+/))
  const own = [...text.matchAll(/^hw\.optional\.arm\.(\w+): 1$/gm)].map(([, name]) => name!)
  return named([...listed, ...own])
}

const named = (flags: readonly string[]): string[] => {
  const has = new Set(flags.map((flag) => flag.toLowerCase()))
  return [...new Set(Object.entries(KNOWN).flatMap(([flag, name]) => (has.has(flag) ? [name] : [])))]
}
