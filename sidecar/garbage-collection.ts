// When V8 collects, and what it gives back. The bytes of a migration are in buffers outside the JavaScript heap, and by default V8 starts a whole collection
// for every 15 MB or so of new ones, whatever the process has: twenty of them in the ten seconds of a migration, on every core's time.

import { setFlagsFromString } from 'node:v8';

/** Limits grow with what heap and buffers together hold. An option of V8's own: where it is not known, collections are as before. */
export const BUFFERS_COUNT_AS_HEAP = '--external-memory-accounted-in-global-limit';

/**
 * Collects everything, and gives the kernel back what an idle process does not need: an ordinary collection keeps the young generation as
 * large as a migration made it. Takes some 50 ms. Nothing without --expose-gc.
 */
export function collectAll(): void {
  globalThis.gc?.({ type: 'major', execution: 'sync', flavor: 'last-resort' });
}

/** For this process, from now on. */
export function collectLessOften(): void {
  setFlagsFromString(BUFFERS_COUNT_AS_HEAP);
}
