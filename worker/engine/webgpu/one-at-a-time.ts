/** Runs what it is given in order, each when the one before has ended. */
export class OneAtATime {
  #last: Promise<void> = Promise.resolve()
  #failure: { readonly thrown: unknown } | undefined

  async run<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#last
    let end = (): void => undefined
    this.#last = new Promise((resolve) => {
      end = resolve
    })
    await before
    try {
      if (this.#failure !== undefined) throw this.#failure.thrown
      return await work()
    } finally {
      end()
    }
  }

  /** The same for what nobody waits for. If it fails, all later calls fail with its error. */
  do(work: () => Promise<void>): void {
    this.run(work).catch((thrown: unknown) => {
      this.#failure ??= { thrown }
    })
  }
}
