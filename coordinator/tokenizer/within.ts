import { createContext, Script } from 'node:vm'

/**
 * What `action` returns, or the error of Node's that says it was ended: also a loop or a regular expression that would go
 * on for ever is, which nothing else on its thread can do. For what a model's files make this process compute.
 */
export function within<T>(seconds: number, action: () => T): T {
  let result: { readonly value: T } | undefined
  sandbox.action = () => {
    result = { value: action() }
  }
  CALL.runInContext(sandbox, { timeout: Math.ceil(seconds * 1000) })
  return result!.value
}

const sandbox: { action: () => void } = { action: () => undefined }
createContext(sandbox)
const CALL = new Script('action()')
