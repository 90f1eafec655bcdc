import type { Argv, Options } from 'yargs'
import { HeadraceError } from '../errors.ts'

/** What more than one command line checks in the same way. */

/** The program that commands add themselves to. */
export type Program = Argv<{ 'log-level': string }>

/** `--model` and `--cache`; `more` says what `--model` is where it is not given, or that it must be. */
export const modelOptions = <T, const O extends Options>(args: Argv<T>, more: O) =>
  args
    .option('model', {
      type: 'string',
      describe: 'Hugging Face folder, GGUF file (of several, the first), or ORG/NAME as pulled',
      ...more,
    })
    .option('cache', {
      type: 'string',
      describe: "Where pulled and fetched models are kept [default: the user's cache folder]",
    })

/** `--insecure-plaintext`, and what it was called before certificates were there. */
export const PLAINTEXT_OPTIONS = {
  'insecure-plaintext': {
    type: 'boolean',
    default: false,
    describe: 'Listen beyond loopback without TLS: anybody on the network may read, join and ask',
  },
  'accept-plaintext': { type: 'boolean', default: false, hidden: true },
} as const

export interface Exposure {
  /** Whether there is an identity to have TLS with. */
  readonly secure: boolean
  readonly insecurePlaintext: boolean
  readonly acceptPlaintext: boolean
}

/** Accepts loopback; any other address needs TLS, or the explicit word that nothing there is encrypted or authenticated. */
export function checkHost(host: string, { secure, insecurePlaintext, acceptPlaintext }: Exposure): void {
  const plaintextAccepted = insecurePlaintext || acceptPlaintext
  if (secure && plaintextAccepted)
    throw new HeadraceError('bad_config', '--insecure-plaintext makes no sense in a cluster with certificates')

  const loopback = host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
  if (loopback || secure || plaintextAccepted) return
  throw new HeadraceError(
    'bad_config',
    `--host ${host} is reachable from other machines and needs TLS: \`headrace init\`, then --cluster on the coordinator and ` +
      '--state and --token on workers; or, on a network that you trust wholly, --insecure-plaintext',
  )
}

export function wholeNumber(flag: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value
  throw new HeadraceError('bad_config', `--${flag} must be a whole number from ${least} to ${most}, not ${value}`)
}

/** A part of a whole. */
export function shareOf(flag: string, value: number): number {
  if (value >= 0 && value <= 1) return value
  throw new HeadraceError('bad_config', `--${flag} must be from 0 to 1, not ${value}`)
}

/** A duration as people write it: `90s`, `15m`, `2h`, `1d`. */
export function seconds(flag: string, text: string, most: number): number {
  const found = /^(\d{1,6})([smhd])$/.exec(text)
  const value = found === null ? 0 : Number(found[1]) * { s: 1, m: 60, h: 3600, d: 86_400 }[found[2] as 's']
  if (value > 0 && value <= most) return value
  throw new HeadraceError(
    'bad_config',
    `--${flag} must be a time such as 15m or 2h, at most ${most / 86_400} days, not ${text}`,
  )
}

/** `http://host:port` (as people write it) to the address that workers dial. */
export function linkUrl(coordinator: string, secure = false): string {
  const text = /^\w+:\/\//.test(coordinator) ? coordinator : `${secure ? 'https' : 'http'}://${coordinator}`
  const url = URL.canParse(text) ? new URL(text) : undefined
  const protocol = url && { 'http:': 'ws:', 'https:': 'wss:', 'ws:': 'ws:', 'wss:': 'wss:' }[url.protocol]
  if (url === undefined || protocol === undefined)
    throw new HeadraceError('bad_config', `--coordinator ${coordinator} is not an address such as http://host:8080`)
  if ((protocol === 'wss:') !== secure)
    throw new HeadraceError(
      'bad_config',
      secure
        ? `--coordinator ${coordinator} has no TLS: a worker with an identity joins https://`
        : `--coordinator ${coordinator} has TLS: a worker needs --state, and once a --token, to join it`,
    )
  return `${protocol}//${url.host}/link`
}
