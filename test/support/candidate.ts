import type { EngineName } from '../../shared/engine-name.ts'
import { createEngine } from '../../worker/engine/create-engine.ts'
import type { Engine } from '../../worker/engine/engine.ts'

/** An engine that the contract suites try: by name, or one that needs more than a name. */
export type Candidate = EngineName | ToBuild

interface ToBuild {
  readonly title: string
  /** Too slow for all of a suite's lengths and cuttings. */
  readonly slow?: boolean
  readonly create: (folder: string) => Promise<Engine>
}

export const isSlow = (candidate: Candidate): boolean =>
  typeof candidate === 'string' ? candidate === 'reference' : candidate.slow === true

export const titleOf = (candidate: Candidate): string => (typeof candidate === 'string' ? candidate : candidate.title)

export const engineOf = (candidate: Candidate, folder: string): Promise<Engine> =>
  typeof candidate === 'string' ? createEngine(candidate, folder, { threads: 1 }) : candidate.create(folder)
