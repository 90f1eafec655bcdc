import { readdirSync, readFileSync, writeFileSync } from 'node:fs'

/** What Linux tells about a process (proc(5)). Parsing is apart from reading, so that it can be tested. */

export interface Memory {
  readonly residentBytes: number
  /** The most since the process began, or since `forgetPeak`. */
  readonly peakBytes: number
}

export interface CpuTime {
  readonly seconds: number
  /** Ready to run, but the core was given to somebody else: another program, or another thread of this one. */
  readonly queuedSeconds: number
}

/** CPU time of a process: its main thread (sockets), its busiest other thread (arithmetic), and all together. */
export interface ProcessCpu {
  readonly main: CpuTime
  readonly busiest: CpuTime
  readonly all: CpuTime
}

export interface MachineCpu {
  readonly busySeconds: number
  /** Taken by the hypervisor for other machines. */
  readonly stolenSeconds: number
}

/** Ticks of `/proc/stat`: USER_HZ, which Linux fixes at 100 for programs on every platform that Node runs on. */
const TICKS_PER_SECOND = 100

export const memoryOf = (pid: number): Memory => parseMemory(readFileSync(`/proc/${pid}/status`, 'utf8'))

/** From now on the peak counts anew. Refused where the kernel does not allow it: then peaks are since the start. */
export function forgetPeak(pid: number): boolean {
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, '5')
    return true
  } catch {
    return false
  }
}

/** The cores a process may run on, as the kernel writes them: `0`, `0-1`. */
export const coresOf = (pid: number): string => field(readFileSync(`/proc/${pid}/status`, 'utf8'), 'Cpus_allowed_list')

export function machineCpu(): MachineCpu {
  return parseMachineCpu(readFileSync('/proc/stat', 'utf8'))
}

/** By thread id. A thread that ends meanwhile is left out. */
export function threadTimes(pid: number): ReadonlyMap<number, CpuTime> {
  const times = new Map<number, CpuTime>()
  for (const tid of readdirSync(`/proc/${pid}/task`))
    try {
      times.set(Number(tid), parseSchedule(readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'utf8')))
    } catch {
      // It ended between the listing and the look.
    }
  return times
}

export function parseMemory(status: string): Memory {
  const bytes = (name: string): number => Number.parseInt(field(status, name), 10) * 1024
  return { residentBytes: bytes('VmRSS'), peakBytes: bytes('VmHWM') }
}

/** `/proc/PID/task/TID/schedstat`: nanoseconds on a core, nanoseconds in its queue, time slices. */
export function parseSchedule(schedstat: string): CpuTime {
  const [running, queued] = schedstat.trim().split(' ').map(Number)
  return { seconds: running! / 1e9, queuedSeconds: queued! / 1e9 }
}

/** The first line of `/proc/stat`: user nice system idle iowait irq softirq steal. */
export function parseMachineCpu(stat: string): MachineCpu {
  const [user, nice, system, , , irq, softirq, steal] = stat
    .slice(0, stat.indexOf('\n'))
    .split(/\s+/)
    .slice(1)
    .map((ticks) => Number(ticks) / TICKS_PER_SECOND)
  return { busySeconds: user! + nice! + system! + irq! + softirq!, stolenSeconds: steal ?? 0 }
}

/** What a process did between two looks at its threads. */
export function cpuBetween(
  pid: number,
  before: ReadonlyMap<number, CpuTime>,
  after: ReadonlyMap<number, CpuTime>,
): ProcessCpu {
  const spent = new Map(
    [...after].map(([tid, time]) => {
      const old = before.get(tid) ?? NO_TIME
      return [tid, { seconds: time.seconds - old.seconds, queuedSeconds: time.queuedSeconds - old.queuedSeconds }]
    }),
  )
  const main = spent.get(pid) ?? NO_TIME
  const others = [...spent].filter(([tid]) => tid !== pid).map(([, time]) => time)
  const busiest = others.reduce((most, time) => (time.seconds > most.seconds ? time : most), NO_TIME)
  const all = [main, ...others].reduce((total, time) => ({
    seconds: total.seconds + time.seconds,
    queuedSeconds: total.queuedSeconds + time.queuedSeconds,
  }))
  return { main, busiest, all }
}

const NO_TIME: CpuTime = { seconds: 0, queuedSeconds: 0 }

function field(status: string, name: string): string {
  const line = status.split('\n').find((text) => text.startsWith(`${name}:`))
  if (line === undefined) throw new Error(`no ${name} in the status of a process`)
  return line.slice(name.length + 1).trim()
}
