import { type ErrorCode, HeadraceError } from '../../shared/errors.ts'
import type { Dice } from './dice.ts'

/** One reader of hostile bytes. Targets are listed in `targets.ts` and know nothing of each other. */
export interface Target {
  readonly name: string
  /** Its part of all inputs, in proportion. */
  readonly weight: number
  /** What it needs, once in a process. */
  open(): Promise<OpenTarget>
}

export interface OpenTarget {
  /** An input: a pure function of the dice. */
  input(dice: Dice): Uint8Array
  /** Reads it: `ok`, or the code that it was refused with. Throws what breaks the rules. */
  take(input: Uint8Array): string | Promise<string>
  close?(): Promise<void>
}

/** `ok` or the code of the error that `action` throws; any other error, and a code that is not among `codes`, is passed on. */
export function outcome(codes: ReadonlySet<ErrorCode>, action: () => unknown): string {
  try {
    action()
    return 'ok'
  } catch (thrown) {
    return codeOf(codes, thrown)
  }
}

export async function outcomeOf(codes: ReadonlySet<ErrorCode>, action: () => Promise<unknown>): Promise<string> {
  try {
    await action()
    return 'ok'
  } catch (thrown) {
    return codeOf(codes, thrown)
  }
}

function codeOf(codes: ReadonlySet<ErrorCode>, thrown: unknown): string {
  if (!(thrown instanceof HeadraceError) || !codes.has(thrown.code)) throw thrown
  return thrown.code
}

/** Several byte strings as one input, so that whatever a target reads is one corpus file. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(
    parts.flatMap((part) => {
      const length = Buffer.alloc(4)
      length.writeUInt32LE(part.length)
      return [length, part]
    }),
  )
}

/** What `joined` joined; what is left of a last part that is cut off is that part. */
export function parted(input: Uint8Array): Uint8Array<ArrayBuffer>[] {
  const parts: Uint8Array<ArrayBuffer>[] = []
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength)
  for (let at = 0; at + 4 <= input.length; ) {
    const end = at + 4 + view.getUint32(at, true)
    parts.push(Uint8Array.from(input.subarray(at + 4, end)))
    at = end
  }
  return parts
}
