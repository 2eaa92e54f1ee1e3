// When V8 collects, and what it gives back. The bytes of a migration are in buffers outside the JavaScript heap, and by default V8 starts a whole collection
// for every 15 MB or so of new ones, whatever the process has: twenty of them in the ten seconds of a migration, on every core's time.

import { setFlagsFromString } from 'node:v8';

/** Limits grow with what heap and buffers together hold. An option of V8's own: where it is not known, collections are as before. */
export const BUFFERS_COUNT_AS_HEAP = '--external-memory-accounted-in-global-limit';

/** A collection drops the compiled code of every function that does not run just then, and not only of those long unused. */
export const CODE_IS_GARBAGE = '--stress-flush-code';

/**
 * Collects everything, and gives the kernel back what an idle process does not need: an ordinary collection keeps the young generation as
 * large as a migration made it, and the code that the migration ran. Takes some 50 ms. Nothing without --expose-gc.
 */
export function collectAll(): void {
  if (globalThis.gc === undefined) return;
  setFlagsFromString(CODE_IS_GARBAGE);
  globalThis.gc({ type: 'major', execution: 'sync', flavor: 'last-resort' });
  setFlagsFromString(CODE_IS_GARBAGE.replace('--', '--no-'));
}

/** For this process, from now on. */
export function collectLessOften(): void {
  setFlagsFromString(BUFFERS_COUNT_AS_HEAP);
}
