import { createHash } from 'node:crypto'
import { HeadraceError } from '../../shared/errors.ts'
import type { Piece } from '../../shared/model-store/manifest.ts'
import { Patience } from '../../shared/model-store/patience.ts'
import { BLOB_PATH } from '../../shared/model-store/serve-blob.ts'
import type { Exchange } from '../../shared/security/exchange.ts'

/** A source that sends nothing for so long is given up; for a wireless network, a piece may take longer in all. */
const SILENCE_SECONDS = 20

/** What came of asking a source for a piece, other than the piece. */
export class PieceRefusal extends HeadraceError {
  /** `lied`: its bytes are not those of the hash; `missing`: it does not have them (yet); `failed`: anything else. */
  readonly how: 'lied' | 'missing' | 'failed'

  constructor(how: PieceRefusal['how'], message: string, cause?: unknown) {
    super(how === 'lied' ? 'model_tampered' : 'dial_failed', message, { cause })
    this.how = how
  }
}

/** The bytes of a piece `into` a buffer of its length, hashed as they come. @throws PieceRefusal, or the signal's error */
export async function fetchPiece(
  exchange: Exchange,
  base: string,
  piece: Piece,
  into: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  const { file, offset, length } = piece
  const patience = new Patience(SILENCE_SECONDS, base, signal)
  try {
    // Any member will do: the bytes are known by their hash.
    const answer = await exchange.ask(`${base}${BLOB_PATH}${file.sha256}`, 'member', {
      headers: { range: `bytes=${offset}-${offset + length - 1}` },
      signal: patience.signal,
    })
    const { statusCode: status } = answer
    if (status !== 206) {
      answer.destroy()
      const how = status === 404 || status === 416 ? 'missing' : 'failed'
      throw new PieceRefusal(how, `${base} answered ${status} for ${file.name}`)
    }
    await receive(answer, piece, into, base, patience)
  } catch (thrown) {
    signal.throwIfAborted()
    if (thrown instanceof PieceRefusal) throw thrown
    throw new PieceRefusal('failed', `${base} broke off: ${reasonOf(thrown)}`, thrown)
  } finally {
    patience.end()
  }
}

async function receive(
  body: AsyncIterable<Uint8Array>,
  { file, offset, length, sha256 }: Piece,
  into: Uint8Array,
  base: string,
  patience: Patience,
): Promise<void> {
  const hash = createHash('sha256')
  let at = 0
  for await (const part of body) {
    patience.progress()
    if (at + part.length > length)
      throw new PieceRefusal('lied', `${base} sends more of ${file.name} than was asked for`)
    into.set(part, at)
    hash.update(part)
    at += part.length
  }
  if (at < length) throw new PieceRefusal('failed', `${base} sent ${at} of ${length} bytes`)
  if (hash.digest('hex') !== sha256)
    throw new PieceRefusal('lied', `${base} sent bytes at ${offset} of ${file.name} that are not those of its hash`)
}

/** The built-in client hides what went wrong behind "fetch failed". */
function reasonOf(thrown: unknown): string {
  const cause = thrown instanceof Error ? (thrown.cause ?? thrown) : thrown
  return cause instanceof Error ? cause.message : String(cause)
}
