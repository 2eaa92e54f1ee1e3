// Sidecars of different releases, made up: a release speaks its own version of the link and the two before it, HELLO picks the
// highest that both speak, and where there is none the migration is plain, with its reason, and never fails.

import { afterEach, describe, expect, it } from 'vitest';
import { linkProblem } from '../operator/controller/eligibility.ts';
import { MAX_LINK_VERSION, MIN_LINK_VERSION } from './link/frame-types.ts';
import {
  agree,
  answerHello,
  decodeHello,
  encodeSourceHello,
  type Hello,
  highestCommonVersion,
  type LinkVersions,
  SPOKEN_VERSIONS,
  verifyTargetHello,
} from './link/hello.ts';
import { deriveConnectionKeys, deriveProofKey } from './link/link-keys.ts';
import { cleanUp, feed, guest, rig, within } from './test-rig.ts';

afterEach(cleanUp);

const proofKey = deriveProofKey(Buffer.alloc(32, 3));
const helloOf = (versions: LinkVersions | undefined): Hello =>
  decodeHello(
    encodeSourceHello(
      {
        ordinal: 0,
        mode: 'framed',
        random: Buffer.alloc(32, 1),
        migrationId: Buffer.alloc(16, 2),
        volumes: [],
        versions,
      },
      proofKey,
    ),
  );
const answerOf = (source: Hello, versions: LinkVersions | undefined): Hello =>
  decodeHello(
    answerHello(source, { mode: 'framed', random: Buffer.alloc(32, 5), usable: [], versions }, proofKey),
  );

/** This release, one before it, one after it, and two that have dropped it. */
const PAIRS: readonly (readonly [string, LinkVersions, LinkVersions, number])[] = [
  ['both of one release', { min: 3, max: 5 }, { min: 3, max: 5 }, 5],
  ['the source one release older', { min: 2, max: 4 }, { min: 3, max: 5 }, 4],
  ['the target one release older', { min: 3, max: 5 }, { min: 2, max: 4 }, 4],
  ['two releases apart', { min: 1, max: 3 }, { min: 3, max: 5 }, 3],
  ['a first release and the next', { min: 1, max: 1 }, { min: 1, max: 2 }, 1],
  ['the source too old', { min: 1, max: 1 }, { min: 2, max: 4 }, 0],
  ['the target too old', { min: 4, max: 6 }, { min: 1, max: 3 }, 0],
];

describe('HELLO', () => {
  it('says what this release speaks: its own version and at most the two before it', () => {
    expect(SPOKEN_VERSIONS).toEqual({ min: MIN_LINK_VERSION, max: MAX_LINK_VERSION });
    expect(helloOf(undefined)).toMatchObject({ minVersion: MIN_LINK_VERSION, maxVersion: MAX_LINK_VERSION });
    expect(MAX_LINK_VERSION - MIN_LINK_VERSION).toBeLessThanOrEqual(2);
  });

  it.each(PAIRS)('%s: both sides come to the same version', (_what, source, target, expected) => {
    const hello = helloOf(source);
    const answer = answerOf(hello, target);
    expect(answer.mode).toBe(expected === 0 ? 'raw' : 'framed');
    const mode = expected === 0 ? 'raw' : 'framed';
    expect(agree(hello, answer)).toMatchObject({ mode, version: expected });
    expect(verifyTargetHello(answer, proofKey, hello)).toMatchObject({ mode, version: expected });
    expect(highestCommonVersion(source, target)).toBe(expected);
    expect(highestCommonVersion(target, source)).toBe(expected);
  });

  it.each(PAIRS)(
    '%s: the operator, which sees both first, comes to the same',
    (_what, source, target, expected) => {
      const problem = linkProblem(source, target);
      expect(problem?.reason).toBe(expected === 0 ? 'ProtocolTooOld' : undefined);
    },
  );

  it('a target that insists on frames without a common version is refused by name', () => {
    const hello = helloOf({ min: 1, max: 1 });
    const answer = { ...answerOf(hello, { min: 1, max: 1 }), minVersion: 2, maxVersion: 4 };
    expect(() => agree(hello, answer)).toThrow(/speaks link versions 2-4, this sidecar 1-1/);
  });

  it('versions that cannot be are never sent', () => {
    for (const versions of [
      { min: 0, max: 1 },
      { min: 2, max: 1 },
      { min: 1, max: 256 },
    ])
      expect(() => helloOf(versions)).toThrow(/link versions/);
  });

  it('a tag of one version is none in another', () => {
    const keyOf = (version: number): Buffer =>
      deriveConnectionKeys(
        Buffer.alloc(32, 3),
        Buffer.alloc(32, 1),
        Buffer.alloc(32, 2),
        0,
        version,
      ).tagKey.export();
    expect(keyOf(1).equals(keyOf(2))).toBe(false);
  });
});

describe('a migration between two releases', () => {
  it.each(PAIRS)('%s: the same bytes arrive', async (_what, sourceVersions, targetVersions, expected) => {
    const { volume, streams } = guest({ channels: 2, pages: 300, seed: 71 });
    const received: Buffer[][] = streams.map(() => []);
    let got = 0;
    const { source, target, qemu } = await rig({
      volumes: [volume],
      sourceVersions,
      targetVersions,
      onQemu: (socket, ordinal) => {
        socket.on('data', (bytes: Buffer) => {
          received[ordinal]?.push(bytes);
          got += bytes.length;
        });
        socket.resume();
      },
    });
    const all = streams.reduce((sum, stream) => sum + stream.length, 0);
    for (const stream of streams) {
      const origin = await qemu();
      origin.resume();
      void feed(origin, stream);
    }
    expect(await within(10_000, () => got === all)).toBe(true);
    streams.forEach((stream, i) => {
      expect(Buffer.compare(Buffer.concat(received[i] as Buffer[]), stream)).toBe(0);
    });
    expect(source.failure ?? target.failure).toBeUndefined();
    const isFramed = expected > 0;
    expect(source.counters.batches > 0).toBe(isFramed);
    expect(target.counters.batches > 0).toBe(isFramed);
    expect(source.rawReason).toBe(isFramed ? undefined : 'LinkVersion');
    expect(target.rawReason).toBe(isFramed ? undefined : 'LinkVersion');
  });
});
