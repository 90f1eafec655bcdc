import { broken, damaged, STRANGERS } from './damage.ts'
import type { Dice } from './dice.ts'

const WORDS = [
  ...[
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    '"',
    '""',
    '\\',
    '\\u0000',
    '\\ud800',
    'null',
    'true',
    '-',
    '-0',
    '1e999',
    '1e-999',
  ],
  ...['9007199254740993', '0.1', '{"__proto__":{"x":1}}', '"constructor":{"prototype":1},', '\n', '\ufeff', '/**/'],
  '['.repeat(200),
  '['.repeat(100_000),
  '{"a":'.repeat(5000),
].map((word) => new TextEncoder().encode(word))

/** A value as JSON: now and then as it is, mostly with other values in it, at times with the text damaged too. */
export function hostileJson(dice: Dice, value: unknown, strangers: readonly unknown[] = STRANGERS): Uint8Array {
  const told = dice.chance(0.05) ? value : broken(dice, value, strangers)
  const text = new TextEncoder().encode(JSON.stringify(told) ?? 'null')
  return dice.chance(0.25) ? damaged(dice, text, WORDS) : text
}
