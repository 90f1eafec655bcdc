import { createHash } from 'node:crypto'
import { z } from 'zod'
import { HeadraceError } from '../errors.ts'
import { safeParse } from '../safe-parse.ts'
import { FILE_ROLES } from './model-files.ts'

/**
 * A model as it travels: its files by SHA-256, each cut into pieces with a hash of their own, so that a bad piece is found
 * as it arrives and only that is fetched again.
 */

export const PIECE_BYTES = 8 << 20
const MOST_PIECE_BYTES = 64 << 20
const MOST_FILES = 4200
/** A terabyte in pieces of the usual size. */
const MOST_PIECES = 1 << 17
/** Such a manifest as JSON, with room. */
export const MOST_MANIFEST_BYTES = 16 << 20

const hash = z.string().regex(/^[0-9a-f]{64}$/, 'not a SHA-256 in hex')
/** Nothing that leads out of a folder, or is hidden in it. */
const fileName = z.string().regex(/^(?!\.)[\w.+-]{1,200}$/, 'not a plain file name')

const fileSchema = z.strictObject({
  name: fileName,
  role: z.enum(FILE_ROLES),
  size: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER),
  sha256: hash,
  pieces: z.array(hash).max(MOST_PIECES),
})
export type ManifestFile = Readonly<z.infer<typeof fileSchema>>

const manifestSchema = z.strictObject({
  object: z.literal('model_manifest'),
  fingerprint: hash,
  entry: fileName.optional(),
  piece_bytes: z.number().int().min(1).max(MOST_PIECE_BYTES),
  files: z.array(fileSchema).min(1).max(MOST_FILES),
})
export type Manifest = Readonly<z.infer<typeof manifestSchema>>

/** Takes nothing on trust but the hashes themselves: names, counts and the fingerprint must agree with them. */
export function parseManifest(json: unknown): Manifest {
  const parsed = safeParse(manifestSchema, json)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw bad(`${issue?.path.join('.')}: ${issue?.message}`.slice(0, 200))
  }
  const { files, entry, piece_bytes, fingerprint } = parsed.data
  const names = new Set(files.map(({ name }) => name))
  if (names.size !== files.length) throw bad('a name is there twice')
  if (entry !== undefined && !names.has(entry)) throw bad(`${entry} is not among its files`)
  for (const { name, size, pieces } of files)
    if (pieces.length !== Math.ceil(size / piece_bytes)) throw bad(`${name} has ${pieces.length} pieces`)
  if (pieceCount(parsed.data) > MOST_PIECES) throw bad(`more than ${MOST_PIECES} pieces`)
  if (fingerprintOf(files) !== fingerprint) throw bad('its fingerprint is not that of its files')
  return parsed.data
}

const bad = (what: string): HeadraceError => new HeadraceError('model_bad_manifest', `the model's manifest: ${what}`)

/**
 * What binds KV to its model: hex SHA-256 over the files that decide numbers and tokens, each with its role and size. Names
 * do not enter, nor do files that say only how the model is talked to.
 */
export function fingerprintOf(files: readonly Pick<ManifestFile, 'role' | 'size' | 'sha256' | 'name'>[]): string {
  const deciding = files.filter(({ role }) => role !== 'other')
  const lines = [...deciding].sort(byName).map(({ role, size, sha256 }) => `${role} ${size} ${sha256}\n`)
  return createHash('sha256').update(lines.join('')).digest('hex')
}

/** Names the very files, so that two models with one fingerprint but another chat template are kept apart. */
export function manifestKey({ files }: { files: readonly Pick<ManifestFile, 'name' | 'sha256'>[] }): string {
  const lines = [...files].sort(byName).map(({ name, sha256 }) => `${name} ${sha256}\n`)
  return createHash('sha256').update(lines.join('')).digest('hex')
}

const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0)

const pieceCount = ({ files }: Pick<Manifest, 'files'>): number =>
  files.reduce((sum, { pieces }) => sum + pieces.length, 0)

/** Files by content: what is there under two names travels once. */
export const contentsOf = ({ files }: Pick<Manifest, 'files'>): ManifestFile[] => [
  ...new Map(files.map((file) => [file.sha256, file])).values(),
]

/** One piece, where it lies in its file. */
export interface Piece {
  readonly file: ManifestFile
  readonly offset: number
  readonly length: number
  readonly sha256: string
}

/** Pieces are counted through all contents, in the manifest's order: everybody who has the manifest counts alike. */
export const piecesOf = (manifest: Manifest): Piece[] =>
  contentsOf(manifest).flatMap((file) =>
    file.pieces.map((sha256, i) => {
      const offset = i * manifest.piece_bytes
      return { file, offset, length: Math.min(manifest.piece_bytes, file.size - offset), sha256 }
    }),
  )
