import { z } from 'zod'
import { HeadraceError } from '../errors.ts'
import { safeParse } from '../safe-parse.ts'
import { decodeFrame, encodeFrame } from './frame.ts'

/** Messages as frames and back: `control.ts` and `peer.ts` have the schemas. Both directions check the message. */

/** A complaint may quote keys that the peer chose; more of it than this helps nobody. */
const MAX_COMPLAINT = 200

/** One family of messages: what it is in code, and what travels. */
type MessageSchema = z.ZodType<object, object>

export function encodeMessage<S extends MessageSchema>(
  schema: S,
  message: z.output<S>,
  payload?: Uint8Array,
  allocate?: (length: number) => Uint8Array,
): Uint8Array {
  const wire = z.safeEncode(schema, message)
  if (!wire.success) throw badSchema(wire.error)
  return encodeFrame(wire.data, payload, allocate)
}

/** The payload is a view of `bytes`. The message is built from plain objects that have the fields of its schema only. */
export function decodeMessage<S extends MessageSchema, B extends ArrayBufferLike>(
  schema: S,
  bytes: Uint8Array<B>,
  maxFrameBytes: number,
): { message: z.output<S>; payload: Uint8Array<B> } {
  const { header, payload } = decodeFrame(bytes, maxFrameBytes)
  const parsed = safeParse(schema, header)
  if (!parsed.success) throw badSchema(parsed.error)
  return { message: parsed.data, payload }
}

function badSchema(error: z.ZodError): HeadraceError {
  const issue = error.issues[0]
  const complaint = `${issue?.path.join('.') || 'message'}: ${issue?.message}`.slice(0, MAX_COMPLAINT)
  return new HeadraceError('frame_bad_schema', complaint)
}
