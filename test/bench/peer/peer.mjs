import { statSync } from 'node:fs'
import { rename } from 'node:fs/promises'
import { getLlama, LlamaLogLevel } from 'node-llama-cpp'

/**
 * The peer's side of a benchmark: node-llama-cpp with its prebuilt CPU libraries, asked over the process channel. Plain
 * JavaScript, because it is no part of the build: what it imports is installed only for a benchmark.
 */

/** What `open` has opened. One at a time. */
let llama
let model
let modelFile
let context
let sequence

const operations = {
  /** Loads a GGUF file, and makes a context of these settings. */
  async open({ file, threads, flash, batch, contextTokens }) {
    const started = performance.now()
    llama ??= await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: 0 })
    await context?.dispose()
    if (model === undefined || modelFile !== file) {
      await model?.dispose()
      model = await llama.loadModel({ modelPath: file })
      modelFile = file
    }
    context = await model.createContext({
      contextSize: contextTokens,
      batchSize: batch,
      threads,
      flashAttention: flash,
      sequences: 1,
    })
    sequence = context.getSequence()
    const found = { threads: context.idealThreads, batch: context.batchSize, flash: context.flashAttention }
    return { ms: performance.now() - started, ...found, systemInfo: llama.systemInfo }
  },

  /** Computes a prompt from nothing, up to the logits of its last token and the likeliest next one. */
  async prefill({ tokens }) {
    await sequence.clearHistory()
    const before = process.cpuUsage()
    const started = performance.now()
    const token = await first(tokens)
    const ms = performance.now() - started
    const { user, system } = process.cpuUsage(before)
    // The generator was left after its first token, which is not computed itself.
    return { ms, cpuMs: (user + system) / 1000, token, evaluated: sequence.nextTokenIndex }
  },

  /** Computes `tokens` and keeps the state that results in `file`, for `decode`. */
  async keep({ tokens, file }) {
    await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(sequence.nextTokenIndex))
    await sequence.saveStateToFile(`${file}.part`)
    await rename(`${file}.part`, file)
    return { evaluated: sequence.nextTokenIndex, bytes: statSync(file).size }
  },

  /** Generates `count` tokens after the context in `file`. The first, which needs the last token of the context, is not timed. */
  async decode({ file, last, count }) {
    await sequence.clearHistory()
    await sequence.loadStateFromFile(file, { acceptRisk: true })
    const contextTokens = sequence.nextTokenIndex
    const ms = []
    let cpu = process.cpuUsage()
    let at = performance.now()
    for await (const _ of sequence.evaluate([last], { temperature: 0, yieldEogToken: true })) {
      const now = performance.now()
      ms.push(now - at)
      at = now
      if (ms.length === 1) cpu = process.cpuUsage()
      if (ms.length > count) break
    }
    const { user, system } = process.cpuUsage(cpu)
    return { contextTokens, ms: ms.slice(1), cpuMs: (user + system) / 1000 }
  },
}

async function first(tokens) {
  for await (const token of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) return token
  throw new Error('no token came')
}

process.on('message', async ({ id, operation, options }) => {
  try {
    const result = await operations[operation](options)
    process.send({ id, result, residentBytes: process.memoryUsage.rss() })
  } catch (thrown) {
    process.send({ id, error: thrown instanceof Error ? thrown.message : String(thrown) })
  }
})
process.on('disconnect', () => process.exit(0))
process.send({ ready: true })
