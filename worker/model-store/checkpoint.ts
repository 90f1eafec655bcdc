import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { modelFiles } from '../../shared/model-store/model-files.ts'
import { headerLength, malformed, PREFIX_BYTES, parseHeader } from '../model/safetensors.ts'

/** Whether every matrix of the model is stored in bfloat16, so that keeping it as such changes no number. */
export async function isBf16Checkpoint(model: string): Promise<boolean> {
  const { folder, files } = await modelFiles(model)
  for (const { name, role } of files) {
    if (role !== 'weights') continue
    if (!name.endsWith('.safetensors') || !(await allBf16(join(folder, name)))) return false
  }
  return true
}

async function allBf16(path: string): Promise<boolean> {
  const handle = await open(path)
  try {
    const { size } = await handle.stat()
    const prefix = await readAt(handle, 0, PREFIX_BYTES, path)
    const header = await readAt(handle, PREFIX_BYTES, headerLength(prefix, size, path), path)
    const tensors = [...parseHeader(header, size, path).values()]
    return tensors.every(({ dtype, dims }) => dims.length < 2 || dtype === 'BF16')
  } finally {
    await handle.close()
  }
}

async function readAt(handle: FileHandle, position: number, length: number, path: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  const { bytesRead } = await handle.read(bytes, 0, length, position)
  if (bytesRead < length) throw malformed(path, `it ends at ${position + bytesRead}`)
  return bytes
}
