import { z } from 'zod'
import { HeadraceError } from '../errors.ts'
import type { Certified } from './identity.ts'

/**
 * Whom the cluster does not want any more. An entry takes with it every certificate of the name that was issued until
 * then, and the key: a machine comes back only with a new token and a new key. Times in seconds since 1970.
 */
export const deniedSchema = z.strictObject({
  name: z.string().min(1).max(64),
  /** SHA-256 of the public key; absent if it is not known. */
  key: z.string().length(64).optional(),
  at: z.number().min(0),
  /** When the last certificate that it means has ended by itself. */
  until: z.number().min(0),
})
export type Denied = Readonly<z.infer<typeof deniedSchema>>

/** What one header holds. */
const MOST_DENIED = 256
export const denyListSchema = z.array(deniedSchema).max(MOST_DENIED)
export type DenyList = readonly Denied[]

export const isDenied = (
  list: DenyList,
  { name, key, issuedAt }: Pick<Certified, 'name' | 'key' | 'issuedAt'>,
): boolean =>
  // Certificates count whole seconds: one of the same second is taken for older.
  list.some((denied) => denied.key === key || (denied.name === name && issuedAt <= denied.at))

/** Without the entries that no living certificate can match. @throws `state_failed` if a list has no room for one more */
export function stillDenied(list: DenyList, now: number): DenyList {
  const left = list.filter(({ until }) => until > now)
  // To forget one in silence would let somebody back in.
  if (left.length < MOST_DENIED) return left
  throw new HeadraceError('state_failed', `${MOST_DENIED} identities are revoked already: make a new cluster authority`)
}
