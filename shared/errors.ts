/** Every error Headrace reports by code. One closed list: the HTTP status, OpenAI's `type`, and what a user should do. */
export const ERRORS = {
  // the request
  invalid_json: { status: 400, type: 'invalid_request_error', help: 'The body is not JSON.' },
  invalid_request: {
    status: 400,
    type: 'invalid_request_error',
    help: 'A field is missing or has a wrong value; `param` names it.',
  },
  empty_prompt: { status: 400, type: 'invalid_request_error', help: 'The prompt has no tokens.' },
  context_length_exceeded: {
    status: 400,
    type: 'invalid_request_error',
    help: 'Prompt and answer do not fit the context length.',
  },
  body_too_large: {
    status: 413,
    type: 'invalid_request_error',
    help: 'The body is larger than the limit (`--body-limit-mib`).',
  },
  model_not_found: {
    status: 404,
    type: 'invalid_request_error',
    help: 'Ask `/v1/models` for the name of the model served.',
  },
  run_not_found: {
    status: 404,
    type: 'invalid_request_error',
    help: 'No run of this id is kept: only the last ones are; ask `/v1/runs`.',
  },
  invalid_api_key: {
    status: 401,
    type: 'invalid_request_error',
    help: 'The API key is missing, unknown or revoked (`Authorization: Bearer KEY`).',
  },
  access_denied: {
    status: 403,
    type: 'invalid_request_error',
    help: 'The route is not open to this address (`--metrics-access`, `--health-access`) or web page (`--cors`).',
  },
  rate_limit_exceeded: {
    status: 429,
    type: 'rate_limit_error',
    help: 'A limit of the API key or of the address is reached; retry after `Retry-After` seconds.',
  },
  idempotency_mismatch: {
    status: 422,
    type: 'invalid_request_error',
    help: 'The `Idempotency-Key` was used for another request.',
  },
  not_found: { status: 404, type: 'invalid_request_error', help: 'There is no such route.' },
  method_not_allowed: {
    status: 405,
    type: 'invalid_request_error',
    help: 'The route exists, but not for this method.',
  },
  plan_impossible: {
    status: 400,
    type: 'invalid_request_error',
    help: 'No plan fits the strategy or number of workers asked for, or the memory of the cluster.',
  },
  // the cluster
  no_workers: {
    status: 503,
    type: 'unavailable_error',
    help: 'No prefill worker is ready; retry after `Retry-After` seconds.',
  },
  no_decode_node: {
    status: 503,
    type: 'unavailable_error',
    help: 'No decode node is ready; retry after `Retry-After` seconds.',
  },
  queue_full: {
    status: 429,
    type: 'rate_limit_error',
    help: 'Too many prompts wait; retry after `Retry-After` seconds.',
  },
  shutting_down: { status: 503, type: 'unavailable_error', help: 'The coordinator is stopping.' },
  worker_lost: { status: 502, type: 'server_error', help: 'A worker of the run vanished; retry.' },
  worker_failed: { status: 502, type: 'server_error', help: 'A worker of the run reported an error; see its log.' },
  out_of_memory: {
    status: 503,
    type: 'server_error',
    help: 'A model, or the KV cache of a run, does not fit the memory of a worker.',
  },
  cancelled: { status: 499, type: 'cancelled', help: 'The client closed the connection.' },
  internal: { status: 500, type: 'server_error', help: 'A defect; please report it with the log.' },
  // joining
  fingerprint_mismatch: {
    status: 409,
    type: 'join_error',
    help: 'The worker has another model than the coordinator: same files needed.',
  },
  precision_mismatch: {
    status: 409,
    type: 'join_error',
    help: 'The worker computes with another precision than the cluster; `--allow-mixed-precision` admits it.',
  },
  protocol_mismatch: {
    status: 409,
    type: 'join_error',
    help: 'Worker and coordinator run different protocol versions.',
  },
  name_taken: { status: 409, type: 'join_error', help: 'Another worker with this name is connected.' },
  // security
  token_refused: {
    status: 401,
    type: 'security_error',
    help: 'The join token is unknown, used, ended, revoked or not for this role or name; `headrace token create` makes one.',
  },
  join_throttled: {
    status: 429,
    type: 'security_error',
    help: 'Too many joins from this address have failed; retry after `Retry-After` seconds.',
  },
  certificate_refused: {
    status: 403,
    type: 'security_error',
    help: 'The other end has no certificate of this cluster, or one that has ended or is not for this.',
  },
  identity_revoked: {
    status: 403,
    type: 'security_error',
    help: 'The identity of this worker has been revoked; it needs a new token.',
  },
  ticket_refused: {
    status: 403,
    type: 'security_error',
    help: 'KV was asked for without a ticket of the coordinator for this run, these workers and this time.',
  },
  state_failed: {
    status: 500,
    type: 'security_error',
    help: 'The folder of the cluster, or of a worker’s identity, cannot be used.',
  },
  // links and frames
  frame_truncated: { status: 400, type: 'protocol_error', help: 'A frame is shorter than its lengths say.' },
  frame_damaged: { status: 400, type: 'protocol_error', help: 'A frame was damaged on its way.' },
  frame_oversized: { status: 413, type: 'protocol_error', help: 'A frame or header is longer than the limit.' },
  frame_bad_magic: { status: 400, type: 'protocol_error', help: 'The bytes are not a Headrace frame.' },
  frame_bad_version: { status: 400, type: 'protocol_error', help: 'The frame is of another protocol version.' },
  frame_bad_header: {
    status: 400,
    type: 'protocol_error',
    help: 'The header is not the MessagePack that the protocol allows.',
  },
  frame_too_deep: { status: 400, type: 'protocol_error', help: 'The header nests deeper than four levels.' },
  frame_bad_schema: { status: 400, type: 'protocol_error', help: 'The header does not match the schema of its kind.' },
  unexpected_message: {
    status: 400,
    type: 'protocol_error',
    help: 'A message of a kind or at a time that the protocol does not allow.',
  },
  link_closed: { status: 502, type: 'link_error', help: 'The link closed before the message was delivered.' },
  link_stalled: {
    status: 408,
    type: 'link_error',
    help: 'The peer sent nothing, or took nothing, for longer than the limit.',
  },
  dial_failed: { status: 502, type: 'link_error', help: 'The peer could not be reached at the address it advertises.' },
  // KV blocks
  kv_identity: { status: 502, type: 'kv_error', help: 'A KV block of another run, model or plan.' },
  kv_shape: {
    status: 502,
    type: 'kv_error',
    help: 'A KV block whose size or place does not match the model and plan.',
  },
  stale_epoch: {
    status: 502,
    type: 'kv_error',
    help: 'A KV block of a worker that was given up since: it was frozen, and comes back late.',
  },
  kv_checksum: { status: 502, type: 'kv_error', help: 'A KV block was damaged on its way.' },
  kv_wrong: {
    status: 502,
    type: 'kv_error',
    help: 'A self-check found that a worker lies or computes wrongly; it gets no more runs.',
  },
  kv_gone: {
    status: 502,
    type: 'kv_error',
    help: 'KV that was kept for a retry has made way for other runs; it is computed again.',
  },
  // model files
  model_incomplete: { status: 500, type: 'model_error', help: 'The model folder lacks a file that is needed.' },
  model_bad_config: { status: 500, type: 'model_error', help: '`config.json` cannot be read or contradicts itself.' },
  model_unsupported: {
    status: 500,
    type: 'model_error',
    help: 'An architecture or option that Headrace does not compute.',
  },
  model_bad_weights: {
    status: 500,
    type: 'model_error',
    help: 'A safetensors or GGUF file is truncated, oversized or malformed.',
  },
  model_bad_tensor: { status: 500, type: 'model_error', help: 'A tensor is missing or has a wrong shape or type.' },
  model_bad_tokenizer: {
    status: 500,
    type: 'model_error',
    help: 'The tokenizer or the chat template cannot be used.',
  },
  model_bad_manifest: {
    status: 502,
    type: 'model_error',
    help: 'The list of a model’s files that the coordinator or the hub sent contradicts itself.',
  },
  model_tampered: {
    status: 502,
    type: 'model_error',
    help: 'The bytes that came for a file of the model are not those of its hash.',
  },
  model_not_cached: {
    status: 500,
    type: 'model_error',
    help: 'Neither a path nor a model in the cache; `headrace pull` fetches it.',
  },
  cache_full: {
    status: 507,
    type: 'model_error',
    help: 'The model does not fit the budget of the model cache (`--cache-budget-mib`) or the disk.',
  },
  cache_failed: { status: 500, type: 'model_error', help: 'The folder of the model cache cannot be used.' },
  // the hub
  hub_not_found: {
    status: 404,
    type: 'hub_error',
    help: 'The hub has no such model, revision or file; or it is hidden from you.',
  },
  hub_forbidden: {
    status: 401,
    type: 'hub_error',
    help: 'The model is not open to all: accept its terms on the hub and set HF_TOKEN.',
  },
  hub_failed: { status: 502, type: 'hub_error', help: 'The hub could not be reached, or went on failing.' },
  // start-up
  bad_config: {
    status: 500,
    type: 'config_error',
    help: 'A flag or environment variable has a wrong value; the message names it.',
  },
  no_device: {
    status: 500,
    type: 'config_error',
    help: 'The machine has not the device asked for; ask `headrace devices`.',
  },
  engine_failed: { status: 500, type: 'engine_error', help: 'The arithmetic engine reported an error.' },
} as const satisfies Record<string, { status: number; type: string; help: string }>

export type ErrorCode = keyof typeof ERRORS

/** Facts that go with an error: small, printable, never a prompt. */
export type ErrorDetails = Readonly<Record<string, string | number | boolean>>

/** The one error class that crosses module and process borders. `message` says what happened and to whom. */
export class HeadraceError extends Error {
  override readonly name = 'HeadraceError'
  readonly code: ErrorCode
  readonly details: ErrorDetails

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; details?: ErrorDetails } = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause })
    this.code = code
    this.details = options.details ?? {}
  }
}

export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERRORS, code)
}

/** Anything thrown, as a coded error: what is coded already stays as it is. */
export function asHeadraceError(thrown: unknown, fallback: ErrorCode = 'internal'): HeadraceError {
  if (thrown instanceof HeadraceError) return thrown
  const message = thrown instanceof Error ? thrown.message : String(thrown)
  return new HeadraceError(fallback, message, { cause: thrown })
}

/** The error that an aborted wait ends with: the signal's own reason if that is coded, else `cancelled`. */
export function abortError(signal: AbortSignal): HeadraceError {
  return signal.reason instanceof HeadraceError
    ? signal.reason
    : new HeadraceError('cancelled', 'cancelled', { cause: signal.reason })
}
