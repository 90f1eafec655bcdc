import { asHeadraceError, HeadraceError, isErrorCode } from '../../shared/errors.ts'

/** An error in a form that threads can pass on. */
export function plainError(thrown: unknown) {
  const { code, message, details } = asHeadraceError(thrown, 'engine_failed')
  return { code, message, details }
}

export function errorFromPlain(
  plain: ReturnType<typeof plainError> | { code: string; message: string },
): HeadraceError {
  const details = 'details' in plain ? plain.details : {}
  return new HeadraceError(isErrorCode(plain.code) ? plain.code : 'internal', plain.message, { details })
}
