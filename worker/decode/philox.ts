/**
 * Philox4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 * A draw depends on its counter and key alone, so an answer can go on elsewhere without the generator's history.
 */
export function philox(counter: Quad, key: readonly [number, number]): Quad {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round++) {
    const [hi0, lo0] = multiply(0xd2511f53, c0)
    const [hi1, lo1] = multiply(0xcd9e8d57, c2)
    ;[c0, c1, c2, c3] = [(hi1 ^ c1 ^ k0) >>> 0, lo1, (hi0 ^ c3 ^ k1) >>> 0, lo0]
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  return [c0, c1, c2, c3]
}

/** Four unsigned 32-bit words. */
export type Quad = readonly [number, number, number, number]

/** Uniform in [0, 1) with 53 random bits. */
export function uniform(seed: number, position: number): number {
  const [a, b] = philox([position >>> 0, 0, 0, 0], [seed >>> 0, 0])
  return ((a >>> 5) * 0x4000000 + (b >>> 6)) / 0x20000000000000
}

/** The high and low words of a 32 x 32 bit product. */
function multiply(a: number, b: number): [number, number] {
  const low = Math.imul(a, b) >>> 0
  const al = a & 0xffff
  const ah = a >>> 16
  const bl = b & 0xffff
  const bh = b >>> 16
  const middle = ah * bl + ((al * bl) >>> 16)
  const high = ah * bh + Math.floor(middle / 0x10000) + Math.floor((al * bh + (middle % 0x10000)) / 0x10000)
  return [high >>> 0, low]
}
