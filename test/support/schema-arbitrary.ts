import fc from 'fast-check'
import { z } from 'zod'

/** Values that a schema accepts, made from the schema itself: a message that is added tomorrow is tested tomorrow. */
export function arbitraryOf(schema: z.core.$ZodType): fc.Arbitrary<unknown> {
  if (schema instanceof z.ZodDiscriminatedUnion) return fc.oneof(...schema.options.map(arbitraryOf))
  if (schema instanceof z.ZodCodec) return arbitraryOf(schema.out)
  if (schema instanceof z.ZodObject) return objectOf(schema)
  if (schema instanceof z.ZodArray) return checked(schema, fc.array(arbitraryOf(schema.element), { maxLength: 8 }))
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
  return checked(schema, fc.record(values, { requiredKeys: required, noNullPrototype: true }))
}

function lengthOf(schema: z.ZodString): { minLength?: number; maxLength?: number } {
  const { minLength, maxLength } = schema
  return { ...(minLength === null ? {} : { minLength }), ...(maxLength === null ? {} : { maxLength }) }
}

/** What a schema asks beyond its shape: the least number of elements, the end of a span after its start. */
function checked<T>(schema: z.core.$ZodType, values: fc.Arbitrary<T>): fc.Arbitrary<T> {
  return values.filter((value) => z.safeEncode(schema, value).success)
}

function numberOf(schema: z.ZodNumber): fc.Arbitrary<number> {
  const min = Math.max(schema.minValue ?? -Infinity, -Number.MAX_VALUE)
  const max = Math.min(schema.maxValue ?? Infinity, Number.MAX_VALUE)
  if (schema.isInt)
    return fc.integer({ min: Math.max(min, Number.MIN_SAFE_INTEGER), max: Math.min(max, Number.MAX_SAFE_INTEGER) })
  // The wire has one zero.
  return checked(schema, fc.double({ min, max, noNaN: true, noDefaultInfinity: true })).map((value) => value + 0)
}

/** So many values that a schema accepts, the same ones every time. */
export const valuesOf = (schema: z.core.$ZodType, count: number): unknown[] =>
  fc.sample(arbitraryOf(schema), { seed: 1, numRuns: count })
