/** Where a model comes from: what the system asks of a Hugging Face folder, and of a GGUF file all the same. */
export interface ModelSource {
  files(): Promise<ModelFiles>
  /** The object in `config.json`, or what it would hold. */
  config(): Promise<unknown>
  /** The object in `generation_config.json`, or what it would hold. */
  generationConfig(): Promise<unknown>
  /** The object in `tokenizer.json`, or what it would hold. */
  tokenizer(): Promise<object>
  /** The object in `tokenizer_config.json`, or what it would hold. */
  tokenizerConfig(): Promise<object>
  /** The Jinja source of the chat template. */
  chatTemplate(): Promise<string | undefined>
}

/** The files that make the model what it is, as paths. In a GGUF model the weights' files hold everything. */
export interface ModelFiles {
  readonly config?: string
  /** Sorted by name: one, or the parts that an index or the first part names. */
  readonly weights: readonly string[]
  /** Workers compute without one. */
  readonly tokenizer?: string
}
