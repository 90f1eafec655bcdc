import { cached, presetName } from '../models/cache.ts'
import { PRESETS, type PresetName } from '../models/presets.ts'
import { promptIds } from '../models/prompt-ids.ts'
import type { SuiteContext } from '../suite.ts'
import type { PeerPackage } from './peer-install.ts'
import { Peer } from './rivals.ts'

/**
 * The peer has no way to decode after a context that it has not computed. So it computes each once, with its fastest
 * weights, and keeps the state for both kinds: the speed of decoding does not depend on what is in it. Files in the order
 * of `contexts`, which must ascend.
 */
export async function keptStates(
  of: { peer: PeerPackage; preset: PresetName; contexts: readonly number[]; threads: number; cores: string },
  { signal, note }: SuiteContext,
): Promise<string[]> {
  const longest = of.contexts.at(-1)!
  const ids = promptIds(PRESETS[of.preset].vocab, longest)
  let peer: Peer | undefined
  try {
    const files: string[] = []
    for (const context of of.contexts) {
      const write = async (file: string): Promise<void> => {
        note(`the peer computes a context of ${context} tokens, once for all runs`)
        peer ??= await Peer.start({ ...of, weights: 'int8' }, signal)
        await peer.keep(ids.slice(0, context), { flash: true, batch: 512 }, longest, file)
      }
      files.push(await cached(presetName(of.preset, `${of.peer.version.replaceAll(' ', '-')}-${context}.state`), write))
    }
    return files
  } finally {
    await peer?.stop()
  }
}
