import { z } from 'zod'
import { isName } from './identity.ts'

/** What travels over TLS when a machine joins or renews; small, and checked on both sides. */

export const JOIN_PATH = '/v1/join'
export const RENEW_PATH = '/v1/renew'
export const MOST_JOIN_BYTES = 8192

const pem = z.string().min(1).max(4096)

/** `request`: PKCS#10, PEM; of it only the key is used. `name`: a wish, unless the token names somebody. */
export const joinRequestSchema = z.strictObject({
  token: z.string().max(256),
  request: pem,
  name: z.string().refine(isName, 'letters, digits, dots, dashes and underscores, at most 64').optional(),
})
export const renewRequestSchema = z.strictObject({ request: pem })
export const joinAnswerSchema = z.strictObject({ certificate: pem })
