import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { HeadraceError } from '../../../shared/errors.ts'

/**
 * A share of a core for a process and all its threads, enforced by the kernel (cgroup v1 or v2, root only). Within every
 * 10 ms a group that has used its time stands still until the next: measured on a 250 Hz kernel, 40 % give 39.5 % of the
 * arithmetic, with 7 % of deviation between tenths of a second (2 % without a quota). A host whose time is up answers
 * its sockets late, too, by up to 6 ms at 40 %.
 */

const ROOT = '/sys/fs/cgroup'
const PERIOD_MICROSECONDS = 10_000
const PREFIX = 'headrace-bench-'

export interface Quota {
  /** Every thread of the process, and every child it starts from now on. */
  add(pid: number): void
  /** When its processes are gone. */
  remove(): void
}

/** Where quotas can be made on this machine, if anywhere. */
function quotaRoot(): { folder: string; version: 1 | 2 } | undefined {
  if (existsSync(join(ROOT, 'cpu', 'cpu.cfs_quota_us'))) return { folder: join(ROOT, 'cpu'), version: 1 }
  const control = join(ROOT, 'cgroup.subtree_control')
  if (!existsSync(control)) return undefined
  try {
    if (!readFileSync(control, 'utf8').split(/\s/).includes('cpu')) writeFileSync(control, '+cpu')
    return { folder: ROOT, version: 2 }
  } catch {
    return undefined
  }
}

/** Throws `bad_config` where the machine has none or they are not this user's to make. */
export function createQuota(name: string, share: number): Quota {
  const root = quotaRoot()
  const wanted = `${(share * 100).toFixed(0)} % of a core needs a CPU quota`
  if (root === undefined) throw new HeadraceError('bad_config', `${wanted}, and this machine has no cgroups for it`)
  const folder = join(root.folder, `${PREFIX}${process.pid}-${name}`)
  const quota = String(Math.round(share * PERIOD_MICROSECONDS))
  try {
    mkdirSync(folder)
    if (root.version === 2) writeFileSync(join(folder, 'cpu.max'), `${quota} ${PERIOD_MICROSECONDS}`)
    else {
      writeFileSync(join(folder, 'cpu.cfs_period_us'), String(PERIOD_MICROSECONDS))
      writeFileSync(join(folder, 'cpu.cfs_quota_us'), quota)
    }
  } catch (cause) {
    if (existsSync(folder)) rmdirSync(folder)
    throw new HeadraceError('bad_config', `${wanted}, and ${folder} cannot be made: are you root?`, { cause })
  }
  return {
    add: (pid) => writeFileSync(join(folder, 'cgroup.procs'), String(pid)),
    remove: () => rmdirSync(folder),
  }
}

/** Groups that a killed benchmark has left. */
export function removeStaleQuotas(): void {
  const root = quotaRoot()
  if (root === undefined) return
  for (const name of readdirSync(root.folder)) {
    const pid = name.startsWith(PREFIX) ? Number.parseInt(name.slice(PREFIX.length), 10) : Number.NaN
    if (Number.isNaN(pid) || existsSync(`/proc/${pid}`)) continue
    // Processes of a killed benchmark hear that their parent is gone, and may still be on their way out.
    const folder = join(root.folder, name)
    if (readFileSync(join(folder, 'cgroup.procs'), 'utf8') === '') rmdirSync(folder)
  }
}
