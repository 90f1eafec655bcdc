import { z } from 'zod'
import { HeadraceError } from '../../shared/errors.ts'
import { type Role, roleSchema } from '../../shared/protocol/control.ts'
import { isSecretOf } from '../../shared/security/join-token.ts'

/** A token as the coordinator keeps it: everything but the secret. */
export const tokenRecordSchema = z.strictObject({
  id: z.string().regex(/^[0-9a-f]{8}$/),
  hash: z.string().length(64),
  role: roleSchema,
  /** Absent: the joiner chooses a name that is free. */
  name: z.string().max(64).optional(),
  uses: z.number().int().min(1).max(1000),
  /** Seconds since 1970. */
  createdAt: z.number(),
  expiresAt: z.number(),
})
export type TokenRecord = Readonly<z.infer<typeof tokenRecordSchema>>

/**
 * Whether a token lets its bearer in, uses not counted. Who has not the secret learns nothing but that.
 * @throws `token_refused`
 */
export function checkToken(
  record: TokenRecord | undefined,
  secret: string,
  wish: { readonly name?: string | undefined },
  now: number,
): { role: Role; name: string | undefined } {
  const refuse = (why: string): HeadraceError => new HeadraceError('token_refused', `the join token ${why}`)
  if (record === undefined || !isSecretOf(secret, record.hash)) throw refuse('is unknown here')
  if (record.expiresAt <= now) throw refuse(`ended at ${new Date(record.expiresAt * 1000).toISOString()}`)
  if (record.name !== undefined && wish.name !== undefined && wish.name !== record.name)
    throw refuse(`is for ${record.name}, not for ${wish.name}`)
  return { role: record.role, name: record.name ?? wish.name }
}
