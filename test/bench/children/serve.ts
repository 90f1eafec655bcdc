import { asHeadraceError } from '../../../shared/errors.ts'

/** The child's end of `PinnedChild`: answers one question at a time until the parent is gone. */
export function serve(operations: Readonly<Record<string, (options: never) => Promise<object>>>): void {
  process.on('message', (asked: { id: number; operation: string; options: never }) => {
    const { id, operation, options } = asked
    answer(operations[operation], options).then(
      (result) => process.send?.({ id, result, residentBytes: process.memoryUsage.rss() }),
      (thrown: unknown) => {
        const { message, code } = asHeadraceError(thrown)
        process.send?.({ id, error: message, code })
      },
    )
  })
  process.on('disconnect', () => process.exit(0))
  process.send?.({ ready: true })
}

async function answer(operation: ((options: never) => Promise<object>) | undefined, options: never): Promise<object> {
  if (operation === undefined) throw new Error('no such operation')
  return operation(options)
}
