import { resolve } from 'node:path'
import type { Program } from '../../shared/cli/options.ts'
import { reportFatal } from '../../shared/cli/process.ts'
import { certificatePath, initCluster } from '../security/cluster-folder.ts'

/** Where `init` puts a cluster, and where the other commands look for it. */
export const DEFAULT_CLUSTER = 'headrace-cluster'

/** `headrace init`. */
export const initCommand = (program: Program): Program =>
  program.command(
    'init',
    'Make the authority of a cluster: with it the coordinator has TLS, and workers join with tokens',
    (args) =>
      args.option('cluster', {
        type: 'string',
        alias: 'dir',
        default: DEFAULT_CLUSTER,
        describe: 'Folder for it; whoever can read it is the cluster',
      }),
    (args) => run(resolve(args.cluster)).catch((thrown: unknown) => reportFatal(thrown)),
  )

async function run(folder: string): Promise<void> {
  const { cluster } = await initCluster(folder, new Date())
  process.stdout.write(
    [
      `Cluster ${cluster} is in ${folder}. Next:`,
      `  headrace coordinator --cluster ${folder} --host 0.0.0.0 --model ...`,
      `  headrace token create --cluster ${folder}            # one for each worker`,
      `HTTP clients trust ${certificatePath(folder)} (curl --cacert, NODE_EXTRA_CA_CERTS).`,
      '',
    ].join('\n'),
  )
}
