/** Runs what it is given in order, each when the one before has ended. */
export class OneAtATime {
  #last: Promise<void> = Promise.resolve()
  #failure: { readonly thrown: unknown } | undefined

  run<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(() => {
      if (this.#failure !== undefined) throw this.#failure.thrown
      return work()
    })
    this.#last = done.then(nothing, nothing) // told to who asked for it
    return done
  }

  /** The same for what nobody waits for. If it fails, all later calls fail with its error. */
  do(work: () => Promise<void>): void {
    this.#last = this.#last.then(work).catch((thrown: unknown) => {
      this.#failure ??= { thrown }
    })
  }
}

const nothing = (): void => undefined
