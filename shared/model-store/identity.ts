import { join } from 'node:path'
import type { FileHashes } from './file-hashes.ts'
import { fingerprintOf, type Manifest, type ManifestFile, PIECE_BYTES } from './manifest.ts'
import { modelFiles } from './model-files.ts'

/** A model on this machine: what it is, and where each of its files lies. */
export interface LocalModel {
  readonly manifest: Manifest
  readonly pathOf: (file: ManifestFile) => string
}

/** Reads every byte of the model, unless `hashes` knows its files. */
export async function identifyModel(path: string, hashes: FileHashes, signal?: AbortSignal): Promise<LocalModel> {
  const { folder, files, entry } = await modelFiles(path)
  const hashed: ManifestFile[] = []
  for (const { name, role } of files) {
    const { size, sha256, pieces } = await hashes.of(join(folder, name), signal)
    hashed.push({ name, role, size, sha256, pieces: [...pieces] })
  }
  const manifest: Manifest = {
    object: 'model_manifest',
    fingerprint: fingerprintOf(hashed),
    ...(entry === undefined ? {} : { entry }),
    piece_bytes: PIECE_BYTES,
    files: hashed,
  }
  return { manifest, pathOf: ({ name }) => join(folder, name) }
}
