import { locateModel } from '../../shared/model-folder.ts'
import { WeightReader } from '../model/weight-reader.ts'

/** Whether every matrix of the model is stored in bfloat16, so that keeping it as such changes no number. */
export async function isBf16Checkpoint(model: string): Promise<boolean> {
  const { weights } = await locateModel(model)
  const reader = await WeightReader.open(weights)
  try {
    return [...reader.matrixTypes()].every((type) => type === 'BF16')
  } finally {
    await reader.close()
  }
}
