import { type Program, wholeNumber } from '../../shared/cli/options.ts'
import { reportFatal } from '../../shared/cli/process.ts'
import { devicesText } from './devices-text.ts'
import { findDevices } from './find-devices.ts'

/** `headrace devices`. */
export const devicesCommand = (program: Program): Program =>
  program.command(
    'devices',
    'What this machine can compute with, and how fast',
    (args) =>
      args
        .option('seconds', { type: 'number', default: 5, describe: 'To measure each device, about' })
        .option('json', { type: 'boolean', default: false, describe: 'Print JSON' }),
    (args) => devices(args).catch((thrown: unknown) => reportFatal(thrown)),
  )

async function devices({ seconds, json }: { seconds: number; json: boolean }): Promise<void> {
  const found = await findDevices(wholeNumber('seconds', seconds, 1, 60))
  process.stdout.write(`${json ? JSON.stringify(found, undefined, 2) : devicesText(found)}\n`)
}
