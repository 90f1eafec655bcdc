import { fileURLToPath } from 'node:url'
import type { Weights } from '../../../shared/engine-name.ts'
import type { EngineOptions } from '../../../worker/engine/engine.ts'
import { presetFolder, presetGguf } from '../models/cache.ts'
import type { GgufType } from '../models/gguf.ts'
import type { PresetName } from '../models/presets.ts'
import type { CeilingKind } from './ceiling.ts'
import type { PerCall } from './flops.ts'
import type { PeerPackage } from './peer-install.ts'
import { PinnedChild } from './pinned-child.ts'

/** Both sides of a comparison as processes of their own on the same cores, and what they answer. */

export const ENGINE_CHILD = fileURLToPath(new URL('../children/engine-child.js', import.meta.url))

/** What is compared with what: the peer's weights of the same kind, or its nearest. */
export const WEIGHT_PAIRS = {
  f32: { type: 'F32', ceiling: 'f32', text: 'f32 against F32' },
  bf16: { type: 'F32', ceiling: 'f32', text: 'bf16 against F32' },
  int8: { type: 'Q8_0', ceiling: 'int8', text: 'int8 against Q8_0' },
  int4: { type: 'Q8_0', ceiling: 'int8', text: 'int4 against Q8_0' },
} as const satisfies Record<Weights, { type: GgufType; ceiling: CeilingKind; text: string }>
export type ComparedWeights = keyof typeof WEIGHT_PAIRS
export const COMPARED_WEIGHTS = Object.keys(WEIGHT_PAIRS) as ComparedWeights[]

export interface OurOpened {
  readonly ms: number
}

export interface OurPrefill {
  readonly ms: number
  readonly cpuMs: number
  /** Seconds inside each kind of call. */
  readonly seconds: PerCall
  readonly lastRows: number
  /** The likeliest next one. */
  readonly token: number
  readonly peakBytes: number
}

export interface OurDecode {
  /** Of each token. */
  readonly ms: readonly number[]
  /** Of all of them. */
  readonly cpuMs: number
  readonly seconds: PerCall
}

/** How the peer computes. `batch` is of how many tokens it computes a prompt at once. */
export interface PeerSettings {
  readonly flash: boolean
  readonly batch: number
}

export interface PeerPrefill {
  readonly ms: number
  readonly cpuMs: number
  readonly token: number
  readonly evaluated: number
}

export interface PeerDecode {
  readonly contextTokens: number
  readonly ms: readonly number[]
  readonly cpuMs: number
}

export type Resident<T> = T & { readonly residentBytes: number }

/** Our engine with a preset's model. Throws what the engine says if it has no such weights. */
export async function startOurs(
  of: EngineOptions & { preset: PresetName; cores: string },
  signal: AbortSignal,
): Promise<PinnedChild> {
  const { preset, cores, ...options } = of
  const folder = await presetFolder(preset)
  const child = await PinnedChild.start(ENGINE_CHILD, cores, signal)
  try {
    await child.ask<OurOpened>('open', { folder, ...options })
    return child
  } catch (thrown) {
    await child.stop()
    throw thrown
  }
}

/** The peer with a preset's model. */
export class Peer {
  readonly #child: PinnedChild
  readonly #file: string
  readonly #threads: number
  #open = ''

  private constructor(child: PinnedChild, file: string, threads: number) {
    this.#child = child
    this.#file = file
    this.#threads = threads
  }

  static async start(
    of: { peer: PeerPackage; preset: PresetName; weights: ComparedWeights; threads: number; cores: string },
    signal: AbortSignal,
  ): Promise<Peer> {
    const file = await presetGguf(of.preset, WEIGHT_PAIRS[of.weights].type)
    return new Peer(await PinnedChild.start(of.peer.program, of.cores, signal), file, of.threads)
  }

  /** Throws unless it computed as many tokens as it was asked to: a speed of something else is no speed. */
  async prefill(tokens: readonly number[], settings: PeerSettings): Promise<Resident<PeerPrefill>> {
    await this.#settle(settings, tokens.length)
    const done = await this.#child.ask<PeerPrefill>('prefill', { tokens })
    check(done.evaluated, tokens.length)
    return done
  }

  async keep(tokens: readonly number[], settings: PeerSettings, contextTokens: number, file: string): Promise<void> {
    await this.#settle(settings, contextTokens)
    check((await this.#child.ask<{ evaluated: number }>('keep', { tokens, file })).evaluated, tokens.length)
  }

  async decode(file: string, context: number, count: number, settings: PeerSettings): Promise<Resident<PeerDecode>> {
    await this.#settle(settings, context + count + 2)
    const done = await this.#child.ask<PeerDecode>('decode', { file, last: 1, count })
    check(done.contextTokens, context)
    check(done.ms.length, count)
    return done
  }

  stop(): Promise<void> {
    return this.#child.stop()
  }

  async #settle(settings: PeerSettings, tokens: number): Promise<void> {
    const options = { file: this.#file, threads: this.#threads, ...settings, contextTokens: tokens + SPARE_TOKENS }
    const wanted = JSON.stringify(options)
    if (wanted === this.#open) return
    const { flash, threads } = await this.#child.ask<{ flash: boolean; threads: number }>('open', options)
    if (flash !== settings.flash || threads !== this.#threads)
      throw new Error(`the peer computes with ${threads} threads and flash ${flash}, not as asked: ${wanted}`)
    this.#open = wanted
  }
}

const SPARE_TOKENS = 16

function check(found: number, wanted: number): void {
  if (found !== wanted) throw new Error(`the peer computed ${found} tokens, not ${wanted}`)
}

export const settingsText = ({ flash, batch }: PeerSettings): string => `flash ${flash ? 'on' : 'off'}, batch ${batch}`
