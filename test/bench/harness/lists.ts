/** Options that are lists: `--tokens 512,2048` and `--tokens 512 2048` mean the same. */
export const listed = (values: readonly unknown[]): string[] =>
  values.flatMap((value) => String(value).split(',')).filter((value) => value !== '')

export const listedNumbers = (values: readonly unknown[]): number[] => listed(values).map(Number)
