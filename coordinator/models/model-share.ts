import type { LocalModel } from '../../shared/model-store/identity.ts'
import { contentsOf } from '../../shared/model-store/manifest.ts'
import { Shelf } from '../../shared/model-store/shelf.ts'

/** What the coordinator gives away of its model: the list of its files, and these files. */
export interface ModelShare {
  /** JSON. */
  readonly manifest: string
  readonly shelf: Shelf
}

export function shareModel({ manifest, pathOf }: LocalModel): ModelShare {
  const shelf = new Shelf()
  for (const file of contentsOf(manifest)) shelf.put(file.sha256, { path: pathOf(file), size: file.size })
  return { manifest: JSON.stringify(manifest), shelf }
}
