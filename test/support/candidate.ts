import type { EngineName } from '../../shared/engine-name.ts'
import { createEngine } from '../../worker/engine/create-engine.ts'
import type { Engine } from '../../worker/engine/engine.ts'

/** An engine that the contract suites try: by name, or one that needs more than a name. */
export type Candidate = EngineName | ToBuild

interface ToBuild {
  readonly title: string
  /** Too slow for many small calls, and for every way to cut a run. */
  readonly few?: boolean
  /** Cases of more tokens are left out. */
  readonly mostTokens?: number
  readonly create: (folder: string) => Promise<Engine>
}

/** It runs the first of the ways to cut a run only. */
export const isSlow = (candidate: Candidate): boolean => candidate === 'reference' || runsFew(candidate)
/** And few small calls. */
export const runsFew = (candidate: Candidate): boolean => typeof candidate !== 'string' && candidate.few === true

export const mostTokens = (candidate: Candidate): number =>
  (typeof candidate === 'string' ? undefined : candidate.mostTokens) ?? Number.POSITIVE_INFINITY

export const titleOf = (candidate: Candidate): string => (typeof candidate === 'string' ? candidate : candidate.title)

export const engineOf = (candidate: Candidate, folder: string): Promise<Engine> =>
  typeof candidate === 'string' ? createEngine(candidate, folder, { threads: 1 }) : candidate.create(folder)
