/** Identifiers that look alike but must not be mixed up. The only casts to them are here. */
declare const brand: unique symbol

export type RunId = string & { readonly [brand]: 'RunId' }
export type WorkerId = string & { readonly [brand]: 'WorkerId' }

export const asRunId = (text: string): RunId => text as RunId
export const asWorkerId = (text: string): WorkerId => text as WorkerId
