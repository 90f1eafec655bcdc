import { HeadraceError } from '../../shared/errors.ts'

/** What measuring asks for on one link (`link-rate.ts`), twice: what was cut off counts too. */
const MOST_PROBE_BYTES = 128 * 2 ** 20
const MOST_PROBES = 1024

/** What one link may ask of a listener, beyond the KV of runs that it is a part of. Throws `unexpected_message`. */
export class PeerBounds {
  #known = false
  #probes = 0
  #probeBytes = 0

  /** A link belongs to one worker for good. */
  hello(): void {
    if (this.#known) throw new HeadraceError('unexpected_message', 'hello a second time')
    this.#known = true
  }

  probe(bytes: number): void {
    this.#probes++
    this.#probeBytes += bytes
    if (this.#probes > MOST_PROBES || this.#probeBytes > MOST_PROBE_BYTES)
      throw new HeadraceError('unexpected_message', 'more probes than a link is measured with')
  }
}
