// HELLO of the link, from both sides: read, proved, answered, agreed on. With the proof made right, what the fields say is
// reached; without, nothing of it may be believed.
import { createHmac } from 'node:crypto';
import {
  FRAME_HEADER_BYTES,
  MAX_HELLO_BODY_BYTES,
  MAX_LINK_VERSION,
  MAX_VOLUME_BYTES,
  MAX_VOLUME_NAME_BYTES,
  MAX_VOLUMES,
  MIN_LINK_VERSION,
  PROOF_BYTES,
} from '../../../sidecar/link/frame-types.ts';
import {
  agree,
  answerHello,
  decodeHello,
  encodeSourceHello,
  type Hello,
  verifySourceHello,
  verifyTargetHello,
} from '../../../sidecar/link/hello.ts';
import { deriveProofKey } from '../../../sidecar/link/link-keys.ts';
import { type FuzzTarget, InvariantError, must, refusalOf } from '../target.ts';

const sessionKey = Buffer.alloc(32, 3);
const proofKey = deriveProofKey(sessionKey);
const migrationId = Buffer.alloc(16, 2);
const volumes = [
  { name: 'root', sizeBytes: 1 << 30 },
  { name: 'data-ä', sizeBytes: 20_480 },
];
const ownBody = encodeSourceHello(
  { ordinal: 1, mode: 'framed', random: Buffer.alloc(32, 1), migrationId, volumes },
  proofKey,
);
const own = decodeHello(ownBody);
const answerBody = (mode: 'raw' | 'framed') =>
  answerHello(own, { mode, random: Buffer.alloc(32, 5), usable: [true, false] }, proofKey);

function proofOf(unproved: Uint8Array, isAnswer: boolean): Buffer {
  return createHmac('sha256', proofKey)
    .update(isAnswer ? ownBody : Buffer.alloc(0))
    .update(unproved)
    .digest();
}

function check(hello: Hello, input: Uint8Array): void {
  must(input.length <= MAX_HELLO_BODY_BYTES, () => `a HELLO of ${input.length} bytes`);
  must(hello.minVersion >= 1 && hello.minVersion <= hello.maxVersion, () => 'versions the wrong way round');
  must(hello.volumes.length <= MAX_VOLUMES, () => `${hello.volumes.length} volumes`);
  const names = new Set<string>();
  for (const { name, sizeBytes } of hello.volumes) {
    const bytes = Buffer.byteLength(name);
    must(bytes >= 1 && bytes <= MAX_VOLUME_NAME_BYTES, () => `a name of ${bytes} bytes`);
    must(!names.has(name), () => 'a name twice');
    names.add(name);
    must(sizeBytes >= 0 && sizeBytes <= MAX_VOLUME_BYTES, () => `a volume of ${sizeBytes} bytes`);
  }
  must(hello.random.length === 32 && hello.migrationId.length === 16, () => 'fields are cut short');
  must(hello.proof.length === PROOF_BYTES, () => `a proof of ${hello.proof.length} bytes`);
}

/** A target that answers what it then does not agree with would leave both sides in different states. */
function agreed(hello: Hello, answer: Hello): ReturnType<typeof agree> {
  try {
    return agree(hello, answer);
  } catch (error) {
    throw new InvariantError(`the answer does not fit its HELLO: ${(error as Error).message}`);
  }
}

/** Every recording of a link begins with it. Its key is another one: a change of it is proved anew. */
function helloOf(recording: Uint8Array): Uint8Array {
  const { buffer, byteOffset, byteLength } = recording;
  const bodyBytes = new DataView(buffer, byteOffset, byteLength).getUint32(FRAME_HEADER_BYTES - 4);
  return recording.subarray(FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + bodyBytes);
}

/** Reads, proves and answers one HELLO body. */
export const helloBody: FuzzTarget = {
  seeds: (corpus) => [...corpus.map(helloOf), ownBody, answerBody('framed'), answerBody('raw')],
  run: (input) => {
    try {
      const hello = decodeHello(input);
      check(hello, input);
      const unproved = hello.body.subarray(0, hello.body.length - PROOF_BYTES);
      if (hello.role === 'source') {
        verifySourceHello(hello, proofKey, { migrationId });
        must(proofOf(unproved, false).equals(hello.proof), () => 'a wrong proof is believed');
        const answer = decodeHello(
          answerHello(
            hello,
            { mode: 'framed', random: Buffer.alloc(32, 6), usable: hello.volumes.map((_, i) => i % 2 === 0) },
            proofKey,
          ),
        );
        const { mode, version } = agreed(hello, answer);
        must(mode === answer.mode, () => 'the two sides do not come to the same mode');
        const isCommon = hello.minVersion <= MAX_LINK_VERSION && hello.maxVersion >= MIN_LINK_VERSION;
        must((mode === 'framed') === (isCommon && hello.mode === 'framed'), () => `mode ${mode}`);
        if (mode === 'framed')
          must(version === Math.min(hello.maxVersion, MAX_LINK_VERSION), () => `version ${version}`);
        return `answered ${mode}`;
      }
      const agreement = verifyTargetHello(hello, proofKey, own);
      must(proofOf(unproved, true).equals(hello.proof), () => 'a wrong proof is believed');
      must(agreement.volumes.length === volumes.length, () => 'volumes come or go');
      return `agreed ${agreement.mode}`;
    } catch (error) {
      return refusalOf(error);
    }
  },
  mutate: (input, random) => {
    if (input.length < 60 + PROOF_BYTES) return undefined;
    const bytes = Buffer.from(input);
    const below = (limit: number): number => Math.floor(random() * limit);
    switch (below(6)) {
      case 0:
        bytes[4] = below(5);
        bytes[5] = random() < 0.8 ? (bytes[4] as number) + below(3) : below(256);
        break;
      case 1:
        bytes[6] = below(3);
        bytes[7] = below(3);
        break;
      case 2:
        bytes.writeUInt16BE(random() < 0.5 ? below(5) : below(65_536), 8 + 2 * below(2));
        break;
      case 3:
        // Size and name of the first volume.
        if (bytes.length > 60 + PROOF_BYTES + 9) bytes[60 + below(9)] = below(256);
        break;
      case 4: {
        // A volume more: the list's bytes once again, and the number to match.
        const list = bytes.subarray(60, bytes.length - PROOF_BYTES);
        bytes.writeUInt16BE((bytes.readUInt16BE(10) * 2) & 0xffff, 10);
        return Buffer.concat([bytes.subarray(0, 60), list, list, bytes.subarray(bytes.length - PROOF_BYTES)]);
      }
      default:
        return undefined;
    }
    return bytes;
  },
  repair: (input, random) => {
    if (input.length < PROOF_BYTES + 12) return input;
    const bytes = Buffer.from(input);
    if (random() < 0.5) migrationId.copy(bytes, 44);
    const proofAt = bytes.length - PROOF_BYTES;
    proofOf(bytes.subarray(0, proofAt), bytes[6] === 1).copy(bytes, proofAt);
    return bytes;
  },
  maxInputBytes: 20_000,
};
