import { z } from 'zod'
import { HeadraceError } from './errors.ts'

/** The files of weights in a folder as Hugging Face's hub has them: one whole file, or shards that an index names. */

export const WHOLE_WEIGHTS = 'model.safetensors'
export const WEIGHT_INDEX = 'model.safetensors.index.json'

const MOST_SHARDS = 4096

/** A shard is a plain file name: an index must not lead out of its folder. */
const shardName = z.string().regex(/^[A-Za-z0-9_][\w.-]*\.safetensors$/, 'a shard is not a plain .safetensors name')
const indexSchema = z.looseObject({ weight_map: z.record(z.string(), shardName) })

/** The shards that the text of an index names, sorted. No such text is `model_bad_weights`; `at` is where it is from. */
export function shardsOf(index: string, at: string): string[] {
  const names = [...new Set(Object.values(parsedIndex(index, at).weight_map))].sort()
  if (names.length > 0 && names.length <= MOST_SHARDS) return names
  throw new HeadraceError('model_bad_weights', `${at} names ${names.length} files`)
}

function parsedIndex(index: string, at: string): z.infer<typeof indexSchema> {
  try {
    return indexSchema.parse(JSON.parse(index))
  } catch (cause) {
    const why = cause instanceof z.ZodError ? `: ${cause.issues[0]?.message}` : ''
    throw new HeadraceError('model_bad_weights', `${at} does not say which files the weights are in${why}`, { cause })
  }
}
