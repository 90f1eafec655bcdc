import { resolve } from 'node:path'
import type { Program } from '../../shared/cli/options.ts'
import { reportFatal, stopSignal } from '../../shared/cli/process.ts'
import { hubToken } from '../../shared/env.ts'
import { HeadraceError } from '../../shared/errors.ts'
import { realClock } from '../../shared/link/real-clock.ts'
import { FileHashes } from '../../shared/model-store/file-hashes.ts'
import { ModelCache } from '../../shared/model-store/model-cache.ts'
import { budgetBytes, defaultCache, HUB_NAME } from '../../shared/model-store/resolve.ts'
import { Hub, type HubFile } from '../hub/hub.ts'
import { pull } from '../hub/pull.ts'
import { bytes } from './table.ts'

/** `headrace pull`. */
export const pullCommand = (program: Program): Program =>
  program.command(
    'pull <model>',
    'Fetch a model from a hub, for --model ORG/NAME',
    (args) =>
      args
        .positional('model', { type: 'string', demandOption: true, describe: 'ORG/NAME, or ORG/NAME@REVISION' })
        .option('file', { type: 'string', describe: 'Which GGUF file, if there are several' })
        .option('hub', { type: 'string', default: 'https://huggingface.co', describe: 'Address of the hub' })
        .option('cache', { type: 'string', describe: "Where models are kept [default: the user's cache folder]" })
        .option('cache-budget-mib', {
          type: 'number',
          describe: 'Most disk for fetched models [default: what is free]',
        })
        .epilogue('HF_TOKEN is sent to the hub, and to no server that it redirects to.'),
    (args) => run(args).catch((thrown: unknown) => reportFatal(thrown)),
  )

interface PullArgs {
  model: string
  file?: string | undefined
  hub: string
  cache?: string | undefined
  cacheBudgetMib?: number | undefined
}

async function run(args: PullArgs): Promise<void> {
  const [model = '', revision = 'main'] = args.model.split('@')
  if (!HUB_NAME.test(args.model) || args.model.endsWith('.gguf'))
    throw new HeadraceError('bad_config', `${args.model} is not a name such as ORG/NAME`)
  const root = resolve(args.cache ?? defaultCache())
  const progress = new Progress(process.stderr)
  const path = await pull(
    { model, revision, file: args.file },
    {
      hub: new Hub(args.hub, hubToken()),
      cache: new ModelCache(root, budgetBytes(args.cacheBudgetMib)),
      hashes: new FileHashes(root),
      clock: realClock,
      random: Math.random,
      signal: stopSignal(),
      onBytes: (file, here) => progress.show(file, here),
      onPause: ({ message }, seconds) => progress.say(`${message}; again in ${seconds.toFixed(1)} s`),
      onWait: () => progress.say('waiting for another process that fetches the same model'),
    },
  )
  progress.end()
  process.stdout.write(`${path}\n`)
}

/** A line for each file: redrawn as it grows on a terminal, once it is there elsewhere. */
class Progress {
  readonly #to: NodeJS.WriteStream
  #open = false

  constructor(to: NodeJS.WriteStream) {
    this.#to = to
  }

  show({ name, size }: HubFile, here: number): void {
    const done = here === size
    const line = `${name}  ${bytes(here)} of ${bytes(size)}`
    if (this.#to.isTTY) this.#to.write(`\r${line}\x1b[K${done ? '\n' : ''}`)
    else if (done) this.#to.write(`${line}\n`)
    this.#open = !done
  }

  say(text: string): void {
    this.end()
    this.#to.write(`${text}\n`)
  }

  end(): void {
    if (this.#open && this.#to.isTTY) this.#to.write('\n')
    this.#open = false
  }
}
