import { GraphBuilder } from '../graph-builder.ts'
import { runOnce } from '../session-set.ts'

const WIDTH = 64
const OUT = 32

/**
 * The largest 8-bit weight that this processor multiplies exactly. Without VNNI the kernel adds two products of an unsigned
 * and a signed byte in 16 bits and clips them; 7-bit weights never come that far. Found out by doing it.
 */
export async function largestExactWeight(): Promise<127 | 63> {
  const g = new GraphBuilder()
  const a = g.input('a', [1, WIDTH], 'uint8')
  const b = g.input('b', [WIDTH, OUT], 'int8')
  const scales = g.input('scales', [OUT])
  const product = g.op('MatMulIntegerToFloat@com.microsoft', [a, b, g.float(1), scales, g.byte(128)])
  g.output('y', product, [1, OUT])
  const y = new Float32Array(OUT)
  await runOnce(
    g.build('self_test'),
    {
      a: [new Uint8Array(WIDTH).fill(255), [1, WIDTH]],
      b: [new Int8Array(WIDTH * OUT).fill(127), [WIDTH, OUT]],
      scales: [new Float32Array(OUT).fill(1), [OUT]],
    },
    { y: [y, [1, OUT]] },
  )
  return y.every((sum) => sum === WIDTH * 127 * 127) ? 127 : 63
}
