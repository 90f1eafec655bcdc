import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import type { ErrorCode } from '../../../shared/errors.ts'
import { fingerprintOf, type Manifest, parseManifest, piecesOf } from '../../../shared/model-store/manifest.ts'
import { PieceSet } from '../../../shared/model-store/piece-set.ts'
import { decodeTraces, encodeTrace, MAX_SPANS } from '../../../shared/trace.ts'
import { broken, damaged, STRANGERS } from '../damage.ts'
import type { Dice } from '../dice.ts'
import { hostileJson } from '../json.ts'
import { outcome, type Target } from '../target.ts'

/** What workers and hubs send beside messages: traces of runs, and lists of a model's files. */

const TRACE_CODES: ReadonlySet<ErrorCode> = new Set(['frame_bad_schema'] as const)
const MANIFEST_CODES: ReadonlySet<ErrorCode> = new Set(['model_bad_manifest'] as const)

const TRACES = [
  [],
  [{ kind: 'project', layer: 0, start: 1, end: 2 } as const],
  Array.from({ length: 40 }, (_, i) => ({
    kind: (['attend', 'send', 'receive', 'decode'] as const)[i % 4]!,
    layer: i,
    start: 1000 + i,
    end: 1000.5 + i,
    ...(i % 4 === 0 ? {} : { peer: `wörker-${i % 3}` }),
  })),
].map(encodeTrace)

const TRACE_WORDS = [
  [0xff, 0xff],
  [0, 0x20, 0, 0],
  [0, 0, 0, 0, 0, 0, 0xf8, 0x7f],
  [0, 0, 0, 0, 0, 0, 0xf0, 0xff],
].map((word) => Uint8Array.from(word))

export const traces: Target = {
  name: 'traces',
  weight: 4,
  open: async () => ({
    input(dice) {
      const several = Array.from({ length: 1 + dice.few(6) }, () => dice.oneOf(TRACES))
      return damaged(dice, Buffer.concat(several), TRACE_WORDS)
    },
    take: (input) => outcome(TRACE_CODES, () => readTraces(input)),
  }),
}

/** Times are of a clock, and what was read can be written and read again. */
function readTraces(input: Uint8Array): void {
  const spans = decodeTraces(input)
  for (const { start, end } of spans) assert.ok(Number.isFinite(start) && Number.isFinite(end) && end >= start)
  const again = decodeTraces(encodeTrace(spans.slice(0, MAX_SPANS)))
  assert.equal(again.length, Math.min(spans.length, MAX_SPANS))
  for (const [i, { kind, layer, peer }] of again.entries())
    assert.deepEqual([kind, layer, peer], [spans[i]!.kind, spans[i]!.layer, spans[i]!.peer])
}

const hash = (text: string): string => createHash('sha256').update(text).digest('hex')
const FILES: Manifest['files'] = [
  { name: 'config.json', role: 'config', size: 5, sha256: hash('c'), pieces: [hash('c')] },
  { name: 'model.safetensors', role: 'weights', size: 25, sha256: hash('w'), pieces: ['1', '2', '3'].map(hash) },
  { name: 'chat_template.jinja', role: 'other', size: 0, sha256: hash(''), pieces: [] },
]
const MANIFEST = { object: 'model_manifest', entry: 'model.safetensors', piece_bytes: 10, files: FILES }

const NAMES = ['../x', '/etc/passwd', '..', '.hidden', 'a/b', 'a\\b', 'con', 'x'.repeat(201), hash('z'), 'weights']

export const manifests: Target = {
  name: 'manifests',
  weight: 4,
  open: async () => ({
    input: hostileManifest,
    take: (input) =>
      outcome(MANIFEST_CODES, () => {
        const json = parsed(Buffer.from(input).toString())
        if (json !== undefined) usePieces(parseManifest(json))
      }),
  }),
}

/** Mostly one whose fingerprint is that of its files, since all else is refused for that alone. */
function hostileManifest(dice: Dice): Uint8Array {
  const strangers = [...STRANGERS, ...NAMES]
  const changed = dice.chance(0.1) ? MANIFEST : broken(dice, MANIFEST, strangers)
  const files: unknown = typeof changed === 'object' && changed !== null && 'files' in changed ? changed.files : []
  const manifest = { ...(changed as object), fingerprint: fingerprint(files) }
  return dice.chance(0.2) ? hostileJson(dice, manifest, strangers) : Buffer.from(JSON.stringify(manifest))
}

function fingerprint(files: unknown): string {
  try {
    return fingerprintOf(files as Manifest['files'])
  } catch {
    return hash('') // no list of files: it is refused for that
  }
}

/** Every piece lies in its file. */
function usePieces(manifest: Manifest): void {
  const pieces = piecesOf(manifest)
  new PieceSet(pieces.length).add(pieces.length - 1)
  for (const { file, offset, length } of pieces) assert.ok(length > 0 && offset + length <= file.size)
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // whoever fetches it says so before it comes here
  }
}
