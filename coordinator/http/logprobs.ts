import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { ScoredToken } from './generation.ts'

/** Log-probabilities in OpenAI's two shapes. A token is shown as text; `bytes` are exact where it is half a character. */

export function chatLogprobs(tokenizer: Tokenizer, scored: readonly ScoredToken[]) {
  const entry = (token: number, logprob: number) => {
    const bytes = tokenizer.bytesOf(token)
    return { token: asText(bytes), logprob, bytes: [...bytes] }
  }
  return {
    content: scored.map(({ token, logprob }) => ({
      ...entry(token, logprob.logprob),
      top_logprobs: logprob.top.map((top) => entry(top.token, top.logprob)),
    })),
    refusal: null,
  }
}

/** `start` is where the generated text begins in the text of the answer: after the prompt, if that is echoed. */
export function completionLogprobs(tokenizer: Tokenizer, scored: readonly ScoredToken[], start: number) {
  const text = (token: number) => asText(tokenizer.bytesOf(token))
  return {
    tokens: scored.map(({ token }) => text(token)),
    token_logprobs: scored.map(({ logprob }) => logprob.logprob),
    top_logprobs: scored.map(({ token, logprob }) =>
      // The token itself is always among them, as OpenAI has it. Unlike tokens may share a text: the likelier counts.
      Object.fromEntries([
        [text(token), logprob.logprob],
        ...logprob.top.map((top) => [text(top.token), top.logprob] as const).reverse(),
      ]),
    ),
    text_offset: scored.map(({ offset }) => start + offset),
  }
}

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
const asText = (bytes: Uint8Array) => utf8.decode(bytes)
