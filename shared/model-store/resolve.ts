import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { wholeNumber } from '../cli/options.ts'
import { userCacheFolder } from '../env.ts'
import { HeadraceError } from '../errors.ts'
import { ModelCache } from './model-cache.ts'

/** Where models are kept that can be fetched again, unless `--cache` says otherwise. */
export const defaultCache = (): string => join(userCacheFolder(), 'headrace')

/** What `--cache-budget-mib` says; without it only the disk is a bound. */
export const budgetBytes = (mib: number | undefined): number =>
  mib === undefined ? Number.POSITIVE_INFINITY : wholeNumber('cache-budget-mib', mib, 1, 2 ** 30) * 2 ** 20

/**
 * `ORG/NAME`, with `@REVISION` if not the main one, and `/FILE.gguf` if one of several. No part begins with a dot, so that no
 * path is meant.
 */
export const HUB_NAME = /^(?!\.)[\w.-]{1,96}\/(?!\.)[\w.-]{1,96}(@[\w.-]{1,96})?(\/(?!\.)[\w.+-]{1,200}\.gguf)?$/

/**
 * What `--model` says to the path of a model: a folder or file as it is, or the name of one that was pulled. A model in the
 * cache stays there as long as this process lives.
 *
 * @throws `model_not_cached`
 */
export async function resolveModel(model: string, cache: string): Promise<string> {
  const found = await stat(model).catch(() => undefined) // unreadable: whoever opens it says so
  if (found !== undefined || !HUB_NAME.test(model)) return model
  const store = new ModelCache(cache)
  const key = await store.keyOf(model)
  const path = key === undefined ? undefined : await store.find(key)
  if (key === undefined || path === undefined)
    throw new HeadraceError('model_not_cached', `${model} is neither a path nor in the cache: headrace pull ${model}`)
  await store.lease(key)
  return path
}
