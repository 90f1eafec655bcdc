import type { InferredOptionTypes, Options } from 'yargs'
import type { Report } from './harness/report.ts'

/** One benchmark: a file in `suites/`, listed in `main.ts`. It says what it measures and reports; the rest is around it. */
export interface Suite<O extends Record<string, Options> = Record<string, Options>> {
  readonly name: string
  readonly describe: string
  readonly options: O
  /** `signal` ends it early; whatever it has started is stopped before it returns, in all cases. */
  run(options: InferredOptionTypes<O>, context: SuiteContext): Promise<Report>
}

export interface SuiteContext {
  readonly signal: AbortSignal
  /** One line on standard error: how far it is. */
  readonly note: (text: string) => void
}

/** Infers the types of a suite's options. */
export const defineSuite = <const O extends Record<string, Options>>(suite: Suite<O>): Suite<O> => suite
