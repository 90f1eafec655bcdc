/**
 * The group of each value, counted from the least: in a group all are less than `factor` times its least. Measured values go
 * up and down, and what hangs on which of two is larger would change with every look at them.
 */
export function groupsOf(values: readonly number[], factor: number): number[] {
  const groups = new Array<number>(values.length).fill(0)
  let [group, least] = [-1, 0]
  for (const i of [...values.keys()].sort((x, y) => values[x]! - values[y]!)) {
    if (group < 0 || !(values[i]! < factor * least)) [group, least] = [group + 1, values[i]!]
    groups[i] = group
  }
  return groups
}
