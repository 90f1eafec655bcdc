import type { EngineName } from '../../shared/engine-name.ts'
import { createEngine } from '../../worker/engine/create-engine.ts'
import type { Engine } from '../../worker/engine/engine.ts'

/** An engine that the contract suites try: by name, or one that needs more than a name. */
export type Candidate = EngineName | ToBuild

interface ToBuild {
  readonly title: string
  /** Too slow for the longest cases of a suite, and for every way to cut them. */
  readonly few?: boolean
  readonly create: (folder: string) => Promise<Engine>
}

/** It runs the first of the ways to cut a run only. */
export const isSlow = (candidate: Candidate): boolean => candidate === 'reference' || runsFew(candidate)
/** And short cases only. */
export const runsFew = (candidate: Candidate): boolean => typeof candidate !== 'string' && candidate.few === true

export const titleOf = (candidate: Candidate): string => (typeof candidate === 'string' ? candidate : candidate.title)

export const engineOf = (candidate: Candidate, folder: string): Promise<Engine> =>
  typeof candidate === 'string' ? createEngine(candidate, folder, { threads: 1 }) : candidate.create(folder)
