import type { Argv } from 'yargs'
import { HeadraceError } from '../errors.ts'

/** What more than one command line checks in the same way. */

/** The program that commands add themselves to. */
export type Program = Argv<{ 'log-level': string }>

/** Accepts loopback; any other address needs the explicit word that links there are neither encrypted nor authenticated. */
export function checkHost(host: string, plaintextAccepted: boolean): void {
  const loopback = host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
  if (loopback || plaintextAccepted) return
  throw new HeadraceError(
    'bad_config',
    `--host ${host} is reachable from other machines and links are not encrypted: add --accept-plaintext on a network you trust`,
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

/** `http://host:port` (as people write it) to the address that workers dial. */
export function linkUrl(coordinator: string): string {
  const text = /^\w+:\/\//.test(coordinator) ? coordinator : `http://${coordinator}`
  const url = URL.canParse(text) ? new URL(text) : undefined
  const protocol = url && { 'http:': 'ws:', 'https:': 'wss:', 'ws:': 'ws:', 'wss:': 'wss:' }[url.protocol]
  if (url === undefined || protocol === undefined)
    throw new HeadraceError('bad_config', `--coordinator ${coordinator} is not an address such as http://host:8080`)
  return `${protocol}//${url.host}/link`
}
