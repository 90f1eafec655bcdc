import fc from 'fast-check'
import { z } from 'zod'

/** Values that a schema accepts, made from the schema itself: a message that is added tomorrow is tested tomorrow. */
export function arbitraryOf(schema: z.core.$ZodType): fc.Arbitrary<unknown> {
  if (schema instanceof z.ZodDiscriminatedUnion) return fc.oneof(...schema.options.map(arbitraryOf))
  if (schema instanceof z.ZodCodec)
    return arbitraryOf(schema.out).filter((value) => z.safeEncode(schema, value).success)
  if (schema instanceof z.ZodObject) return objectOf(schema)
  if (schema instanceof z.ZodArray) return fc.array(arbitraryOf(schema.element), lengthOf(schema))
  if (schema instanceof z.ZodOptional) return arbitraryOf(schema.unwrap())
  if (schema instanceof z.ZodLiteral) return fc.constantFrom(...schema.values)
  if (schema instanceof z.ZodEnum) return fc.constantFrom(...schema.options)
  if (schema instanceof z.ZodBoolean) return fc.boolean()
  if (schema instanceof z.ZodString) return fc.string({ unit: CHARACTER, ...lengthOf(schema) })
  if (schema instanceof z.ZodNumber) return numberOf(schema)
  throw new TypeError(`no values for a schema of type ${schema._zod.def.type}`)
}

/** One UTF-16 unit each, as schemas count lengths, and one to three bytes in UTF-8. */
const CHARACTER = fc.constantFrom('a', 'Z', '9', '-', ' ', '"', '\0', 'é', '漢')

function objectOf(schema: z.ZodObject): fc.Arbitrary<unknown> {
  const fields = Object.entries(schema.shape)
  const required = fields.filter(([, field]) => !(field instanceof z.ZodOptional)).map(([name]) => name)
  const values = Object.fromEntries(fields.map(([name, field]) => [name, arbitraryOf(field)]))
  return fc
    .record(values, { requiredKeys: required, noNullPrototype: true })
    .filter((value) => schema.safeParse(value).success)
}

function lengthOf(schema: z.ZodArray | z.ZodString): { minLength?: number; maxLength?: number } {
  const { minimum, maximum } = schema._zod.bag as { minimum?: number; maximum?: number }
  return {
    ...(minimum === undefined ? {} : { minLength: minimum }),
    ...(maximum === undefined ? {} : { maxLength: maximum }),
  }
}

function numberOf(schema: z.ZodNumber): fc.Arbitrary<number> {
  const min = schema.minValue ?? -Number.MAX_VALUE
  const max = schema.maxValue ?? Number.MAX_VALUE
  if (schema.isInt)
    return fc.integer({ min: Math.max(min, Number.MIN_SAFE_INTEGER), max: Math.min(max, Number.MAX_SAFE_INTEGER) })
  return (
    fc
      .double({ min, max, noNaN: true, noDefaultInfinity: true })
      .filter((value) => schema.safeParse(value).success)
      // The wire has one zero.
      .map((value) => value + 0)
  )
}
