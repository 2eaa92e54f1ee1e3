// Keys of a migration's connections, all derived by HKDF-SHA256 from the session key that the operator gives to both
// sidecars at ARM: one proves HELLO, one per connection and direction tags batches, one seeds page digests.
// The derivations, byte by byte, are in docs/link-protocol.md, "Keys".
import { createSecretKey, hkdfSync, type KeyObject } from 'node:crypto';
import { RANDOM_BYTES } from './frame-types.ts';
import { LinkMisuseError } from './link-errors.ts';

/** Shorter session keys would be guessed more easily than the tags they protect. */
export const MIN_SESSION_KEY_BYTES = 32;

// The only direction that carries tagged bytes; the byte keeps a later one apart.
const SOURCE_TO_TARGET = 0;

export interface ConnectionKeys {
  /** AES-128 key of the batch tags of this connection, source to target. */
  readonly tagKey: KeyObject;
  /** Seed of the XXH64 page digests in this connection's RESEND frames. */
  readonly digestSeed: bigint;
}

function checkSessionKey(sessionKey: Uint8Array): void {
  if (sessionKey.length < MIN_SESSION_KEY_BYTES) {
    throw new LinkMisuseError(
      `the session key has ${sessionKey.length} bytes, at least ${MIN_SESSION_KEY_BYTES} are needed`,
    );
  }
}

/** The HMAC key with which both sides prove in HELLO that they hold `sessionKey` (32 bytes or more). */
export function deriveProofKey(sessionKey: Uint8Array): KeyObject {
  checkSessionKey(sessionKey);
  return createSecretKey(Buffer.from(hkdfSync('sha256', sessionKey, new Uint8Array(0), 'nasmig hello', 32)));
}

function connectionInfo(label: string, ordinal: number, direction?: number): Buffer {
  const tail =
    direction === undefined ? [ordinal >>> 8, ordinal & 0xff] : [ordinal >>> 8, ordinal & 0xff, direction];
  return Buffer.concat([Buffer.from(label, 'latin1'), Buffer.from(tail)]);
}

/**
 * Keys of connection `ordinal`; both randoms are in the salt, so no two connections share a key. The agreed `version` is in what
 * they are derived from, so that a batch of one version is never taken for one of another.
 */
export function deriveConnectionKeys(
  sessionKey: Uint8Array,
  sourceRandom: Uint8Array,
  targetRandom: Uint8Array,
  ordinal: number,
  version: number,
): ConnectionKeys {
  checkSessionKey(sessionKey);
  if (sourceRandom.length !== RANDOM_BYTES || targetRandom.length !== RANDOM_BYTES) {
    throw new LinkMisuseError(
      `HELLO randoms have ${sourceRandom.length} and ${targetRandom.length} bytes, not 32`,
    );
  }
  const salt = Buffer.concat([sourceRandom, targetRandom]);
  const derive = (info: Buffer, bytes: number) =>
    Buffer.from(hkdfSync('sha256', sessionKey, salt, info, bytes));
  return {
    tagKey: createSecretKey(derive(connectionInfo(`nasmig link v${version}`, ordinal, SOURCE_TO_TARGET), 16)),
    digestSeed: derive(connectionInfo('nasmig digest', ordinal), 8).readBigUInt64BE(0),
  };
}
