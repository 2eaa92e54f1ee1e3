// HELLO, the first frame in both directions of every connection that an armed source opens. It tells a sidecar from a
// QEMU, proves that both hold the migration's session key, and settles version, mode, and which volumes may be
// referenced. Its layout (docs/link-protocol.md, "HELLO") is the same in every version of the protocol.
import { createHmac, type KeyObject, randomBytes, timingSafeEqual } from 'node:crypto';
import {
  FRAME_HEADER_BYTES,
  FRAME_HELLO,
  HELLO_FIXED_BYTES,
  MAX_HELLO_BODY_BYTES,
  MAX_LINK_VERSION,
  MAX_VOLUME_BYTES,
  MAX_VOLUME_NAME_BYTES,
  MAX_VOLUMES,
  MIGRATION_ID_BYTES,
  MIN_LINK_VERSION,
  type Mode,
  PROOF_BYTES,
  RANDOM_BYTES,
  type Role,
} from './frame-types.ts';
import {
  LinkBadHelloError,
  LinkBadMagicError,
  LinkMisuseError,
  LinkProofError,
  LinkVersionError,
} from './link-errors.ts';

const MAGIC = Buffer.from('NASM', 'latin1');
const NO_BYTES = Buffer.alloc(0);
const utf8 = new TextDecoder('utf-8', { fatal: true });

/** Versions of the protocol that a side speaks, lowest to highest. */
export interface LinkVersions {
  readonly min: number;
  readonly max: number;
}

/** What this release speaks. */
export const SPOKEN_VERSIONS: LinkVersions = { min: MIN_LINK_VERSION, max: MAX_LINK_VERSION };

export interface HelloVolume {
  readonly name: string;
  /** In an answer: the source's size when the target can read the volume, else 0. */
  readonly sizeBytes: number;
}

export interface Hello {
  readonly minVersion: number;
  readonly maxVersion: number;
  readonly role: Role;
  readonly mode: Mode;
  /** Which connection of the migration this is, from 0, in the order in which the source accepted them from QEMU. */
  readonly ordinal: number;
  readonly random: Buffer;
  readonly migrationId: Buffer;
  readonly volumes: readonly HelloVolume[];
  readonly proof: Buffer;
  /** The whole body, proof included; everything above is a view of it or read from it. */
  readonly body: Buffer;
}

export interface AgreedVolume {
  readonly name: string;
  readonly sizeBytes: number;
  /** Whether a batch may refer to it. */
  readonly usable: boolean;
}

export interface Agreement {
  readonly mode: Mode;
  /** Highest version both speak; 0 when the mode is raw. */
  readonly version: number;
  /** In the order in which batches number them. */
  readonly volumes: readonly AgreedVolume[];
}

/** The 32 fresh random bytes a side puts into its HELLO. */
export function randomHello(): Buffer {
  return randomBytes(RANDOM_BYTES);
}

/** The 16 bytes of a Kubernetes UID such as `5b3c1f0e-9a7d-4c55-8d1e-0123456789ab`. */
export function migrationIdFromUid(uid: string): Buffer {
  const hex = uid.replaceAll('-', '');
  if (!/^[0-9a-fA-F]{32}$/.test(hex))
    throw new LinkMisuseError(`the migration's UID ${JSON.stringify(uid)} is not a UUID`);
  return Buffer.from(hex, 'hex');
}

/**
 * Whether a connection that an armed target accepted begins with a HELLO frame. Twelve bytes always decide; QEMU's first
 * byte is 'Q' on main and 0x11 on multifd, so for those the first one does. A foreign connection is relayed raw.
 */
export function classifyOpening(bytes: Uint8Array): 'hello' | 'foreign' | 'undecided' {
  const expected = [FRAME_HELLO, 0, 0, 0];
  const known = Math.min(bytes.length, FRAME_HEADER_BYTES + MAGIC.length);
  for (let i = 0; i < known; i++) {
    const byte = bytes[i];
    if (i < 4 && byte !== expected[i]) return 'foreign';
    // The longest HELLO is below 64 KiB, so the upper half of the length is zero.
    if (i >= 4 && i < 6 && byte !== 0) return 'foreign';
    if (i >= FRAME_HEADER_BYTES && byte !== MAGIC[i - FRAME_HEADER_BYTES]) return 'foreign';
  }
  return known === FRAME_HEADER_BYTES + MAGIC.length ? 'hello' : 'undecided';
}

function proofOf(proofKey: KeyObject, sourceBody: Uint8Array, ownBody: Uint8Array): Buffer {
  return createHmac('sha256', proofKey).update(sourceBody).update(ownBody).digest();
}

interface HelloFields {
  readonly role: Role;
  readonly mode: Mode;
  readonly ordinal: number;
  readonly random: Uint8Array;
  readonly migrationId: Uint8Array;
  readonly volumes: readonly HelloVolume[];
  /** Default {@link SPOKEN_VERSIONS}. */
  readonly versions?: LinkVersions | undefined;
}

function encodeHello(fields: HelloFields, proofKey: KeyObject, sourceBody: Uint8Array): Buffer {
  if (fields.random.length !== RANDOM_BYTES)
    throw new LinkMisuseError(`HELLO's random has ${fields.random.length} bytes, not 32`);
  if (fields.migrationId.length !== MIGRATION_ID_BYTES) {
    throw new LinkMisuseError(`HELLO's migration id has ${fields.migrationId.length} bytes, not 16`);
  }
  if (!Number.isInteger(fields.ordinal) || fields.ordinal < 0 || fields.ordinal > 0xffff) {
    throw new LinkMisuseError(`connection ordinal ${fields.ordinal} is not a 16-bit number`);
  }
  if (fields.volumes.length > MAX_VOLUMES) {
    throw new LinkMisuseError(`${fields.volumes.length} volumes in HELLO, the limit is ${MAX_VOLUMES}`);
  }
  const fixed = Buffer.alloc(HELLO_FIXED_BYTES);
  MAGIC.copy(fixed, 0);
  const { min, max } = fields.versions ?? SPOKEN_VERSIONS;
  if (!(min >= 1 && min <= max && max <= 255)) throw new LinkMisuseError(`link versions ${min} to ${max}`);
  fixed[4] = min;
  fixed[5] = max;
  fixed[6] = fields.role === 'source' ? 0 : 1;
  fixed[7] = fields.mode === 'raw' ? 0 : 1;
  fixed.writeUInt16BE(fields.ordinal, 8);
  fixed.writeUInt16BE(fields.volumes.length, 10);
  fixed.set(fields.random, 12);
  fixed.set(fields.migrationId, 44);
  const parts: Buffer[] = [fixed];
  for (const volume of fields.volumes) {
    const name = Buffer.from(volume.name, 'utf8');
    if (name.length === 0 || name.length > MAX_VOLUME_NAME_BYTES) {
      throw new LinkMisuseError(
        `volume name ${JSON.stringify(volume.name)} has ${name.length} bytes, 1 to 255 are allowed`,
      );
    }
    if (!Number.isInteger(volume.sizeBytes) || volume.sizeBytes < 0 || volume.sizeBytes > MAX_VOLUME_BYTES) {
      throw new LinkMisuseError(
        `volume ${volume.name} has ${volume.sizeBytes} bytes, at most ${MAX_VOLUME_BYTES} can be referenced`,
      );
    }
    const size = Buffer.alloc(9);
    size.writeBigUInt64BE(BigInt(volume.sizeBytes), 0);
    size[8] = name.length;
    parts.push(size, name);
  }
  const unproved = Buffer.concat(parts);
  return Buffer.concat([unproved, proofOf(proofKey, sourceBody, unproved)]);
}

/** The HELLO body an armed source sends first on connection `ordinal`. Volumes whose names repeat are refused by the target. */
export function encodeSourceHello(fields: Omit<HelloFields, 'role'>, proofKey: KeyObject): Buffer {
  return encodeHello({ ...fields, role: 'source' }, proofKey, NO_BYTES);
}

/**
 * The HELLO body with which a target answers. `usable[i]` says whether it can read the source's volume i. The mode
 * becomes raw when the source asked for raw or no version is common, since a connection already accepted is relayed.
 */
export function answerHello(
  source: Hello,
  answer: {
    readonly mode: Mode;
    readonly random: Uint8Array;
    readonly usable: readonly boolean[];
    readonly versions?: LinkVersions | undefined;
  },
  proofKey: KeyObject,
): Buffer {
  const own = answer.versions ?? SPOKEN_VERSIONS;
  const common = highestCommonVersion({ min: source.minVersion, max: source.maxVersion }, own);
  const framed = answer.mode === 'framed' && source.mode === 'framed' && common > 0;
  return encodeHello(
    {
      role: 'target',
      versions: own,
      mode: framed ? 'framed' : 'raw',
      ordinal: source.ordinal,
      random: answer.random,
      migrationId: source.migrationId,
      volumes: source.volumes.map((volume, i) => ({
        name: volume.name,
        sizeBytes: answer.usable[i] === true ? volume.sizeBytes : 0,
      })),
    },
    proofKey,
    source.body,
  );
}

/**
 * Reads a HELLO body. Everything is checked but the proof, which needs the key: call verifySourceHello or
 * verifyTargetHello before believing a field. Throws LinkBadMagicError or LinkBadHelloError.
 */
export function decodeHello(bytes: Uint8Array): Hello {
  if (bytes.length < MAGIC.length || MAGIC.compare(bytes, 0, MAGIC.length) !== 0)
    throw new LinkBadMagicError(bytes);
  if (bytes.length < HELLO_FIXED_BYTES + PROOF_BYTES || bytes.length > MAX_HELLO_BODY_BYTES) {
    throw new LinkBadHelloError(`it has ${bytes.length} bytes`);
  }
  const body = Buffer.from(bytes);
  const minVersion = body.readUInt8(4);
  const maxVersion = body.readUInt8(5);
  if (minVersion === 0 || minVersion > maxVersion)
    throw new LinkBadHelloError(`versions ${minVersion} to ${maxVersion}`);
  const roleByte = body.readUInt8(6);
  const modeByte = body.readUInt8(7);
  if (roleByte > 1) throw new LinkBadHelloError(`role ${roleByte}`);
  if (modeByte > 1) throw new LinkBadHelloError(`mode ${modeByte}`);
  const volumeCount = body.readUInt16BE(10);
  if (volumeCount > MAX_VOLUMES)
    throw new LinkBadHelloError(`${volumeCount} volumes, the limit is ${MAX_VOLUMES}`);
  const proofAt = body.length - PROOF_BYTES;
  const volumes: HelloVolume[] = [];
  const names = new Set<string>();
  let at = HELLO_FIXED_BYTES;
  for (let i = 0; i < volumeCount; i++) {
    if (proofAt - at < 9) throw new LinkBadHelloError(`it ends within volume ${i}`);
    const sizeBytes = body.readUInt32BE(at) * 2 ** 32 + body.readUInt32BE(at + 4);
    const nameBytes = body.readUInt8(at + 8);
    at += 9;
    if (sizeBytes > MAX_VOLUME_BYTES) throw new LinkBadHelloError(`volume ${i} has ${sizeBytes} bytes`);
    if (nameBytes === 0 || proofAt - at < nameBytes)
      throw new LinkBadHelloError(`the name of volume ${i} has ${nameBytes} bytes`);
    let name: string;
    try {
      name = utf8.decode(body.subarray(at, at + nameBytes));
    } catch {
      throw new LinkBadHelloError(`the name of volume ${i} is not UTF-8`);
    }
    if (names.has(name)) throw new LinkBadHelloError(`two volumes are named ${JSON.stringify(name)}`);
    names.add(name);
    volumes.push({ name, sizeBytes });
    at += nameBytes;
  }
  if (at !== proofAt) throw new LinkBadHelloError(`${proofAt - at} bytes follow the last volume`);
  return {
    minVersion,
    maxVersion,
    role: roleByte === 0 ? 'source' : 'target',
    mode: modeByte === 0 ? 'raw' : 'framed',
    ordinal: body.readUInt16BE(8),
    random: body.subarray(12, 12 + RANDOM_BYTES),
    migrationId: body.subarray(44, 44 + MIGRATION_ID_BYTES),
    volumes,
    proof: body.subarray(proofAt),
    body,
  };
}

function verifyProof(hello: Hello, proofKey: KeyObject, sourceBody: Uint8Array): void {
  const unproved = hello.body.subarray(0, hello.body.length - PROOF_BYTES);
  if (!timingSafeEqual(proofOf(proofKey, sourceBody, unproved), hello.proof)) {
    throw new LinkProofError(`the proof of connection ${hello.ordinal} is wrong`);
  }
}

/** Target: the HELLO is from the source sidecar of `migrationId`. Throws LinkProofError or LinkBadHelloError. */
export function verifySourceHello(
  hello: Hello,
  proofKey: KeyObject,
  expected: { readonly migrationId: Uint8Array },
): void {
  verifyProof(hello, proofKey, NO_BYTES);
  if (hello.role !== 'source') throw new LinkBadHelloError('a target says HELLO to a target');
  if (!hello.migrationId.equals(expected.migrationId)) {
    throw new LinkProofError(`it is armed for migration ${hello.migrationId.toString('hex')}`);
  }
}

/** Source: the HELLO answers `source`, this side's own. Throws LinkProofError, LinkBadHelloError or LinkVersionError. */
export function verifyTargetHello(hello: Hello, proofKey: KeyObject, source: Hello): Agreement {
  verifyProof(hello, proofKey, source.body);
  return agree(source, hello);
}

/** Highest version that both speak, 0 when there is none. */
export function highestCommonVersion(one: LinkVersions, other: LinkVersions): number {
  const highest = Math.min(one.max, other.max);
  return highest >= Math.max(one.min, other.min) ? highest : 0;
}

/**
 * What both HELLOs settle; both sides call it with the same two and come to the same result. Throws LinkBadHelloError when
 * the answer does not fit, LinkVersionError when it wants frames in a version nobody has in common.
 */
export function agree(source: Hello, answer: Hello): Agreement {
  if (source.role !== 'source' || answer.role !== 'target')
    throw new LinkBadHelloError(`a ${answer.role} answers a ${source.role}`);
  if (answer.ordinal !== source.ordinal)
    throw new LinkBadHelloError(`connection ${source.ordinal} is answered as ${answer.ordinal}`);
  if (!answer.migrationId.equals(source.migrationId))
    throw new LinkBadHelloError('the answer is for another migration');
  if (answer.mode === 'framed' && source.mode === 'raw')
    throw new LinkBadHelloError('the answer is framed, raw was asked for');
  if (answer.volumes.length !== source.volumes.length) {
    throw new LinkBadHelloError(`${source.volumes.length} volumes are answered by ${answer.volumes.length}`);
  }
  const volumes = source.volumes.map((volume, i): AgreedVolume => {
    const answered = answer.volumes[i];
    if (answered === undefined || answered.name !== volume.name) {
      throw new LinkBadHelloError(`volume ${volume.name} is answered as ${answered?.name}`);
    }
    if (answered.sizeBytes !== 0 && answered.sizeBytes !== volume.sizeBytes) {
      throw new LinkBadHelloError(
        `volume ${volume.name} has ${volume.sizeBytes} bytes here and ${answered.sizeBytes} there`,
      );
    }
    return { name: volume.name, sizeBytes: volume.sizeBytes, usable: answered.sizeBytes !== 0 };
  });
  if (answer.mode === 'raw') return { mode: 'raw', version: 0, volumes };
  const version = highestCommonVersion(
    { min: source.minVersion, max: source.maxVersion },
    { min: answer.minVersion, max: answer.maxVersion },
  );
  if (version === 0) {
    throw new LinkVersionError(answer.minVersion, answer.maxVersion, source.minVersion, source.maxVersion);
  }
  return { mode: 'framed', version, volumes };
}
