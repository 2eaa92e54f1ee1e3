// Copies between buffers for batches: without an intermediate view, and without a call for the few bytes between pages.

// On main the skeleton between two pages is QEMU's 8-byte record header; a call costs more than such a loop.
const LOOP_UP_TO_BYTES = 32;

/** Copies `from[start, end)` to `to` at `toAt`. The caller has made sure that both ranges exist. */
export function copyBytes(from: Buffer, start: number, end: number, to: Buffer, toAt: number): void {
  const length = end - start;
  if (length > LOOP_UP_TO_BYTES) from.copy(to, toAt, start, end);
  else for (let i = 0; i < length; i++) to[toAt + i] = from[start + i] as number;
}
