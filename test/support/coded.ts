import { HeadraceError } from '../../shared/errors.ts'

/** For `assert.rejects` and `assert.throws`: an error of this code. */
export const coded = (code: string) => (error: unknown) => error instanceof HeadraceError && error.code === code
