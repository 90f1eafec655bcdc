import { z } from 'zod'

/**
 * What `schema` makes of a value that somebody else wrote. The library's own `safeParse` throws at some: a check of a
 * length looks at `length` also where the value is no list, and `{"length": {"toString": 4}}` cannot be compared.
 */
export function safeParse<S extends z.ZodType>(schema: S, value: unknown): z.ZodSafeParseResult<z.output<S>> {
  try {
    return z.safeParse(schema, value)
  } catch {
    const error = new z.ZodError([{ code: 'custom', path: [], message: 'an object where none can be' }])
    return { success: false, error: error as z.ZodError<z.output<S>> }
  }
}
