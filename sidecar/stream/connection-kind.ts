// Tells by its first bytes what a migration connection carries. QEMU opens main, multifd and preempt channels to the same address,
// and the order of their first bytes is not fixed. Only main and multifd carry pages that a finder can find.

/**
 * - `main`: main channel of a fresh migration, begins with QEMU's file magic "QEVM"
 * - `multifd`: multifd channel, begins with the magic of its init packet
 * - `tls`: TLS inside QEMU, nothing can be found in it
 * - `postcopy-recovery`: main channel of a recovery after post-copy, begins with a COMMAND and no header
 * - `unknown`: anything else; so looks the post-copy preempt channel, which has no magic at all
 */
export type ConnectionKind = 'main' | 'multifd' | 'tls' | 'postcopy-recovery' | 'unknown';

/** With this many bytes the answer is never `more-bytes-needed`. */
export const CONNECTION_KIND_BYTES = 4;

const BEGINNINGS: readonly { readonly kind: ConnectionKind; readonly bytes: readonly number[] }[] = [
  { kind: 'main', bytes: [0x51, 0x45, 0x56, 0x4d] },
  { kind: 'multifd', bytes: [0x11, 0x22, 0x33, 0x44] },
  { kind: 'tls', bytes: [0x16, 0x03] }, // TLS record: handshake, version 3.x
  { kind: 'postcopy-recovery', bytes: [0x08, 0x00] }, // COMMAND, high byte of its number
];

/**
 * Classifies a connection by the bytes it began with. Decides as early as they allow, and asks for more while two answers are
 * possible. Peek: the finder wants these bytes too.
 */
export function connectionKind(firstBytes: Uint8Array): ConnectionKind | 'more-bytes-needed' {
  for (const { kind, bytes } of BEGINNINGS) {
    const known = Math.min(bytes.length, firstBytes.length);
    let equal = 0;
    while (equal < known && firstBytes[equal] === bytes[equal]) equal++;
    if (equal === bytes.length) return kind;
    if (equal === firstBytes.length) return 'more-bytes-needed';
  }
  return 'unknown';
}
