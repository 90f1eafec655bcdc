import { z } from 'zod'
import { type Span, spanSchema } from '../plan.ts'

const MAX_SPANS = 192

const pairs = z
  .array(z.number())
  .max(2 * MAX_SPANS)
  .refine((flat) => flat.length % 2 === 0, 'a span lacks its end')

/**
 * Spans, which travel as flat numbers `[start, end, start, end, ...]`: a map for each would nest an assignment five
 * levels deep, and a header may have four.
 */
export const flatSpans = z.codec(pairs, z.array(spanSchema).min(1).max(MAX_SPANS), {
  decode: (flat) => {
    const spans: Span[] = []
    for (let i = 0; i < flat.length; i += 2) spans.push({ start: flat[i]!, end: flat[i + 1]! })
    return spans
  },
  encode: (spans) => spans.flatMap((span) => [span.start, span.end]),
})
