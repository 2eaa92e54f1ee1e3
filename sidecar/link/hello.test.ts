// HELLO: what both sides agree on, what is refused, and how a sidecar is told from a QEMU.
import { describe, expect, it } from 'vitest';
import { MAX_VOLUME_BYTES, MAX_VOLUMES } from './frame-types.ts';
import { helloFrame } from './frame-writer.ts';
import {
  agree,
  answerHello,
  classifyOpening,
  decodeHello,
  encodeSourceHello,
  type Hello,
  type HelloVolume,
  migrationIdFromUid,
  randomHello,
  verifySourceHello,
  verifyTargetHello,
} from './hello.ts';
import { deriveProofKey } from './link-keys.ts';

const key = deriveProofKey(Buffer.alloc(32, 1));
const otherKey = deriveProofKey(Buffer.alloc(32, 2));
const migrationId = migrationIdFromUid('5b3c1f0e-9a7d-4c55-8d1e-0123456789ab');
const volumes: HelloVolume[] = [
  { name: 'root', sizeBytes: 10 * 2 ** 30 },
  { name: 'daten-ü', sizeBytes: 4096 },
];

function source(fields: { mode?: 'raw' | 'framed'; ordinal?: number; volumes?: HelloVolume[] } = {}): Hello {
  return decodeHello(
    encodeSourceHello(
      { ordinal: 0, mode: 'framed', random: randomHello(), migrationId, volumes, ...fields },
      key,
    ),
  );
}

function answered(to: Hello, usable = [true, false], mode: 'raw' | 'framed' = 'framed'): Hello {
  return decodeHello(answerHello(to, { mode, random: randomHello(), usable }, key));
}

/** A HELLO body with one byte changed and, if `proved`, a right proof again. */
function withByte(hello: Hello, at: number, value: number): Buffer {
  const body = Buffer.from(hello.body);
  body[at] = value;
  return body;
}

const code = (of: string) => expect.objectContaining({ code: `NASMIG_LINK_${of}` });

describe('agreement', () => {
  it('is the same on both sides', () => {
    const asked = source({ ordinal: 8 });
    verifySourceHello(asked, key, { migrationId });
    const answer = answered(asked);
    const expected = {
      mode: 'framed',
      version: 1,
      volumes: [
        { name: 'root', sizeBytes: 10 * 2 ** 30, usable: true },
        { name: 'daten-ü', sizeBytes: 4096, usable: false },
      ],
    };
    expect(agree(asked, answer)).toEqual(expected);
    expect(verifyTargetHello(answer, key, asked)).toEqual(expected);
    expect(answer.ordinal).toBe(8);
  });

  it.each([
    ['raw', 'framed'],
    ['framed', 'raw'],
    ['raw', 'raw'],
  ] as const)('source %s, target %s: raw', (asks, answers) => {
    const asked = source({ mode: asks });
    expect(agree(asked, answered(asked, [true, true], answers))).toMatchObject({ mode: 'raw', version: 0 });
  });

  it('a source of another version only is answered raw', () => {
    const asked = decodeHello(withByte(decodeHello(withByte(source(), 5, 9)), 4, 8));
    expect(asked).toMatchObject({ minVersion: 8, maxVersion: 9 });
    const answer = answered(asked);
    expect(answer.mode).toBe('raw');
    expect(agree(asked, answer).mode).toBe('raw');
  });

  it('a source of more versions gets the highest common one', () => {
    const asked = decodeHello(withByte(source(), 5, 9));
    expect(agree(asked, answered(asked)).version).toBe(1);
  });

  it('a framed answer without a common version is refused', () => {
    const asked = source();
    const answer = decodeHello(withByte(decodeHello(withByte(answered(asked), 5, 9)), 4, 8));
    expect(() => agree(asked, answer)).toThrow(code('VERSION'));
  });

  it('a target whose volumes are none answers so', () => {
    const asked = source({ volumes: [] });
    expect(agree(asked, answered(asked, []))).toMatchObject({ mode: 'framed', volumes: [] });
  });
});

describe('proof', () => {
  it('of another key', () => {
    const asked = source();
    expect(() => verifySourceHello(asked, otherKey, { migrationId })).toThrow(code('PROOF'));
    expect(() => verifyTargetHello(answered(asked), otherKey, asked)).toThrow(code('PROOF'));
  });

  it('of another migration', () => {
    expect(() => verifySourceHello(source(), key, { migrationId: Buffer.alloc(16) })).toThrow(code('PROOF'));
  });

  it('of every byte', () => {
    const asked = source();
    const answer = answered(asked);
    for (let at = 4; at < asked.body.length; at++) {
      const changed = Buffer.from(asked.body);
      changed[at] = (changed[at] as number) ^ 1;
      expect(() => verifySourceHello(decodeHello(changed), key, { migrationId })).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^NASMIG_LINK_(PROOF|BAD_HELLO)$/) }),
      );
    }
    // The answer to one HELLO does not answer another.
    expect(() => verifyTargetHello(answer, key, source())).toThrow(code('PROOF'));
  });

  it('a source HELLO sent back is not an answer', () => {
    const asked = source();
    expect(() => verifyTargetHello(asked, key, asked)).toThrow(code('PROOF'));
    expect(() => verifySourceHello(answered(asked), key, { migrationId })).toThrow(code('PROOF'));
  });
});

describe('an answer that does not fit', () => {
  it.each([
    ['another connection', { ordinal: 1 }],
    ['fewer volumes', { volumes: [{ name: 'root', sizeBytes: 10 * 2 ** 30 }] }],
    [
      'another name',
      {
        volumes: [
          { name: 'boot', sizeBytes: 10 * 2 ** 30 },
          { name: 'daten-ü', sizeBytes: 4096 },
        ],
      },
    ],
    [
      'another size',
      {
        volumes: [
          { name: 'root', sizeBytes: 4096 },
          { name: 'daten-ü', sizeBytes: 4096 },
        ],
      },
    ],
  ])('%s', (_name, fields) => {
    expect(() => agree(source(), answered(source(fields), [true, true]))).toThrow(code('BAD_HELLO'));
  });

  it('framed where raw was asked for', () => {
    expect(() => agree(source({ mode: 'raw' }), answered(source()))).toThrow(code('BAD_HELLO'));
  });

  it('from the wrong side', () => {
    expect(() => agree(source(), source())).toThrow(code('BAD_HELLO'));
  });

  it('for another migration', () => {
    const foreign = decodeHello(
      encodeSourceHello(
        { ordinal: 0, mode: 'framed', random: randomHello(), migrationId: Buffer.alloc(16), volumes },
        key,
      ),
    );
    expect(() => agree(source(), answered(foreign))).toThrow(code('BAD_HELLO'));
  });
});

describe('a body that is not valid', () => {
  const good = source();
  const nameAt = 60 + 9;
  it.each([
    ['nothing', Buffer.alloc(0), 'BAD_MAGIC'],
    ['another magic', withByte(good, 3, 0x4e), 'BAD_MAGIC'],
    ['too short', good.body.subarray(0, 91), 'BAD_HELLO'],
    ['version 0', withByte(good, 4, 0), 'BAD_HELLO'],
    ['versions the wrong way round', withByte(good, 4, 2), 'BAD_HELLO'],
    ['role 2', withByte(good, 6, 2), 'BAD_HELLO'],
    ['mode 2', withByte(good, 7, 2), 'BAD_HELLO'],
    ['more volumes than there are', withByte(good, 11, 3), 'BAD_HELLO'],
    ['fewer volumes than there are', withByte(good, 11, 1), 'BAD_HELLO'],
    ['65 volumes', withByte(good, 11, MAX_VOLUMES + 1), 'BAD_HELLO'],
    ['a volume of more than 16 TiB', withByte(good, 60, 1), 'BAD_HELLO'],
    ['a name of no bytes', withByte(good, 68, 0), 'BAD_HELLO'],
    ['a name past the end', withByte(good, 68, 255), 'BAD_HELLO'],
    ['a name that is not UTF-8', withByte(good, nameAt, 0xff), 'BAD_HELLO'],
    ['cut in a volume', good.body.subarray(0, 60 + 13 + 4 + 32), 'BAD_HELLO'],
  ])('%s', (_name, body, expected) => {
    expect(() => decodeHello(body)).toThrow(code(expected));
  });

  it('two volumes of one name', () => {
    const twice: HelloVolume[] = [
      { name: 'a', sizeBytes: 1 },
      { name: 'a', sizeBytes: 2 },
    ];
    expect(() => source({ volumes: twice })).toThrow(code('BAD_HELLO'));
  });

  it('is not written either', () => {
    const volume = (name: string, sizeBytes: number) => () => source({ volumes: [{ name, sizeBytes }] });
    expect(volume('', 1)).toThrow(code('MISUSE'));
    expect(volume('x'.repeat(256), 1)).toThrow(code('MISUSE'));
    expect(volume('x', MAX_VOLUME_BYTES + 1)).toThrow(code('MISUSE'));
    expect(volume('x', -1)).toThrow(code('MISUSE'));
    expect(() => source({ ordinal: 65536 })).toThrow(code('MISUSE'));
    const many = Array.from({ length: MAX_VOLUMES + 1 }, (_, i) => ({ name: `v${i}`, sizeBytes: 1 }));
    expect(() => source({ volumes: many })).toThrow(code('MISUSE'));
    expect(() => migrationIdFromUid('not a uid')).toThrow(code('MISUSE'));
  });

  it('the largest there is fits its frame', () => {
    const most = Array.from({ length: MAX_VOLUMES }, (_, i) => ({
      name: `${i}`.padStart(255, 'v'),
      sizeBytes: MAX_VOLUME_BYTES,
    }));
    const hello = source({ volumes: most });
    expect(hello.volumes).toEqual(most);
    expect(helloFrame(hello.body)[0]).toHaveLength(8);
  });
});

describe('the first bytes of a connection', () => {
  const hello = Buffer.concat(helloFrame(source().body));
  it('of a sidecar', () => {
    for (let length = 0; length < 12; length++)
      expect(classifyOpening(hello.subarray(0, length))).toBe('undecided');
    expect(classifyOpening(hello.subarray(0, 12))).toBe('hello');
    expect(classifyOpening(hello)).toBe('hello');
  });

  it.each([
    ['main', '51'],
    ['multifd', '11'],
    ['a post-copy record that begins like HELLO', '0100000000000000'],
    ['a length no HELLO has', '010000000001'],
  ])('of %s', (_name, hex) => {
    const bytes = Buffer.from(hex, 'hex');
    const verdict = classifyOpening(Buffer.concat([bytes, Buffer.alloc(12)]));
    expect(verdict).toBe('foreign');
  });
});
