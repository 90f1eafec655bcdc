import type { EngineName } from '../../shared/engine-name.ts'
import { createEngine } from '../../worker/engine/create-engine.ts'
import type { Engine } from '../../worker/engine/engine.ts'

/** An engine that the contract suites try: by name, or one that needs more than a name. */
export type Candidate = EngineName | { readonly title: string; readonly create: (folder: string) => Promise<Engine> }

export const titleOf = (candidate: Candidate): string =>
  typeof candidate === 'string' ? candidate : candidate.title

export const engineOf = (candidate: Candidate, folder: string): Promise<Engine> =>
  typeof candidate === 'string' ? createEngine(candidate, folder, { threads: 1 }) : candidate.create(folder)
