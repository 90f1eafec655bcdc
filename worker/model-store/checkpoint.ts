import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { readExactly } from '../../shared/gguf/file.ts'
import { modelFiles } from '../../shared/model-store/model-files.ts'
import { headerLength, PREFIX_BYTES, parseHeader } from '../model/safetensors.ts'

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
    const prefix = new Uint8Array(PREFIX_BYTES)
    await readExactly(handle, prefix, 0, path)
    const header = new Uint8Array(headerLength(prefix, size, path))
    await readExactly(handle, header, PREFIX_BYTES, path)
    const tensors = [...parseHeader(header, size, path).values()]
    return tensors.every(({ type, dims }) => dims.length < 2 || type === 'BF16')
  } finally {
    await handle.close()
  }
}
