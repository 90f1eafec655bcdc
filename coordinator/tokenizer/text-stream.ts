/** Token ids to text, piece by piece. What is emitted is never taken back. Pure. */

export interface TextStream {
  /** Characters decoded so far, whether emitted, held back or cut off by a stop string. */
  readonly decoded: number
  /** The text that may be sent now. Once `stopped`, a stop string is complete and no more may be pushed. */
  push(token: number): { text: string; stopped: boolean }
  /** At the end: what was held back, in case it would have become a stop string or a whole character. */
  flush(): { text: string; stopped: boolean }
}

type Decode = (ids: readonly number[]) => string

export function createTextStream(decode: Decode, stops: readonly string[]): TextStream {
  const characters = createCharacters(decode)
  const stopStrings = createStopStrings(stops)
  let decoded = 0
  const pass = (text: string) => {
    decoded += text.length
    return stopStrings.push(text)
  }
  return {
    get decoded() {
      return decoded
    },
    push: (token) => pass(characters.push(token)),
    flush() {
      const last = pass(characters.flush())
      return last.stopped ? last : { text: last.text + stopStrings.held(), stopped: false }
    },
  }
}

/** Invalid bytes decode to U+FFFD as half a character does, special tokens to nothing: so many are waited through. */
const MAX_UNSETTLED_TOKENS = 256

/**
 * What a token decodes to depends on its neighbours: bytes join to characters, some tokenizers strip a space at the
 * start. So a window is decoded: the last tokens that ended on a whole character, as context, and all after them.
 */
function createCharacters(decode: Decode) {
  let window: number[] = []
  /** How many tokens of the window are context, and how many characters of the window were emitted. */
  let context = 0
  let emitted = 0

  return {
    push(token: number): string {
      window.push(token)
      const text = decode(window)
      const unsettled = text.endsWith('\uFFFD') && window.length < MAX_UNSETTLED_TOKENS
      const piece = text.slice(emitted, unsettled ? -1 : undefined)
      emitted += piece.length
      if (unsettled || (piece === '' && window.length < MAX_UNSETTLED_TOKENS)) return piece
      window = window.slice(context)
      context = window.length
      emitted = decode(window).length
      return piece
    },
    flush: (): string => decode(window).slice(emitted),
  }
}

/** Passes text through up to the first stop string that completes, holding back what could still become one. */
function createStopStrings(stops: readonly string[]) {
  let held = ''
  return {
    held: () => held,
    push(text: string): { text: string; stopped: boolean } {
      const all = held + text
      const stop = firstCompleted(all, stops)
      if (stop !== undefined) return { text: all.slice(0, stop), stopped: true }
      const free = all.length - longestBeginning(all, stops)
      held = all.slice(free)
      return { text: all.slice(0, free), stopped: false }
    },
  }
}

/** Where the stop string that ends first begins (of two that end together, the longer): however the text was cut. */
function firstCompleted(text: string, stops: readonly string[]): number | undefined {
  let best: { start: number; end: number } | undefined
  for (const stop of stops) {
    const start = text.indexOf(stop)
    if (start < 0) continue
    const end = start + stop.length
    if (best === undefined || end < best.end || (end === best.end && start < best.start)) best = { start, end }
  }
  return best?.start
}

/** The length of the longest end of `text` with which some stop string begins. */
function longestBeginning(text: string, stops: readonly string[]): number {
  let longest = 0
  for (const stop of stops)
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--)
      if (text.endsWith(stop.slice(0, length))) longest = length
  return longest
}
