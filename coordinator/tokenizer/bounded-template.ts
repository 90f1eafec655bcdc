import type { Template } from '@huggingface/jinja'
import { HeadraceError } from '../../shared/errors.ts'

/** More than any list, indentation or count of a chat template. */
const MOST = 100_000
/** A name that no template can write. */
const NAME = 'bounded range'

/** What a template is given beside its values, once `boundTemplate` has seen it. */
export const boundedRange: Readonly<Record<string, unknown>> = { [NAME]: range }

/**
 * Makes every `range(...)` of a template one that is bounded, since the package's own fills memory until the process ends,
 * and throws `model_bad_tokenizer` for numbers that can only be there for that.
 */
export function boundTemplate(template: Template): Template {
  const waiting: unknown[] = [template.parsed]
  while (waiting.length > 0) {
    const node = waiting.pop()
    if (typeof node !== 'object' || node === null) continue
    if ('callee' in node && isRange(node.callee)) node.callee.value = NAME
    if ('value' in node && typeof node.value === 'number' && !(node.value <= MOST))
      throw new HeadraceError(
        'model_bad_tokenizer',
        `the chat template has the number ${node.value}, more than ${MOST}`,
      )
    waiting.push(...Object.values(node))
  }
  return template
}

const isRange = (node: unknown): node is { value: string } =>
  typeof node === 'object' && node !== null && 'value' in node && node.value === 'range'

function range(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second]
  const count = Math.max(0, Math.ceil((stop - start) / step))
  if (!(count <= MOST)) throw new RangeError(`a range of ${count} numbers, more than ${MOST}`)
  return Array.from({ length: count }, (_, i) => start + i * step)
}
