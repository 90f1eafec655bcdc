import { MessageChannel, type MessagePort } from 'node:worker_threads'

let closed: MessagePort | undefined

/**
 * Gives the memory of a buffer back to the system at once, and leaves it with no bytes: sent to where nobody can receive
 * it, it has no owner any more. For large buffers that other threads made: a thread does not collect its garbage because of
 * those, and holds them until it would do so anyway.
 */
export function freeNow(buffer: ArrayBuffer): void {
  if (closed === undefined) {
    closed = new MessageChannel().port1
    closed.close()
  }
  closed.postMessage(undefined, [buffer])
}
