// Operator and sidecar of different releases. The first release's messages are here word for word: they must be understood as
// long as its protocol is, whatever is added later. A next release adds fields, and messages that only those get who asked.
import { describe, expect, it } from 'vitest';
import { decodeHubMessage, decodeSidecarMessage, encodeHubMessage } from './codec.ts';
import { type Coordination, startCoordination, stepCoordination } from './coordination.ts';
import { ControlMessageError } from './errors.ts';
import { type HubMessage, laterHubMessages } from './messages.ts';
import { type ArmingState, idle, stepArming } from './sidecar-arming.ts';

const UID = '6f1b7a52-2c9e-4f0a-9a53-0d5f1d3c8e11';
const MIGRATION = { migrationUid: UID, epoch: 7 };
const COUNTERS = {
  qemuBytes: 1000,
  linkBytes: 100,
  nasBytes: 4096,
  pages: { reference: 1, literalRaw: 0, literalCompressed: 2, zero: 3 },
  resends: 0,
};
const KEY = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=';

/** What a sidecar of the first release sends. Never changed: such sidecars run as long as their VMs do. */
const FIRST_SIDECAR = {
  hello: {
    type: 'hello',
    pod: { namespace: 'shop', name: 'virt-launcher-db-x7k2p', uid: '0d0a8a3e-77c1-4a3f-8a60-3f6b51c0a001' },
    vmi: { name: 'db', uid: '5f2f0a9c-1a6b-4e1f-8a52-0c5f1d3c8e22' },
    release: '0.1.0',
    link: { min: 1, max: 1 },
    volumes: [{ name: 'rootdisk', sizeBytes: 10_737_418_240, readable: true, uncached: true }],
    index: { blocks: 81_920, bytes: 1_048_576, ageSeconds: 42, ready: true },
    migrations: [],
  },
  armed: { type: 'armed', ...MIGRATION, role: 'target' },
  holding: { type: 'holding', ...MIGRATION, role: 'source' },
  raw: { type: 'raw', ...MIGRATION, role: 'source', reason: 'NoGo', detail: 'no GO within 2 s' },
  progress: {
    type: 'progress',
    ...MIGRATION,
    role: 'source',
    sequence: 3,
    stage: 'bulk',
    iteration: 1,
    ramBytes: 1_073_741_824,
    remainingBytes: 210_000_000,
    qemuBytesPerSecond: 400_000_000,
    linkBytesPerSecond: 16_000_000,
    nasBytesPerSecond: 320_000_000,
    ...COUNTERS,
  },
  result: {
    type: 'result',
    ...MIGRATION,
    role: 'source',
    outcome: 'accelerated',
    ...COUNTERS,
    iterations: 3,
    durationMs: 4100,
    cpuMilliseconds: 1900,
    volumes: [{ name: 'rootdisk', nasBytes: 610_000_000, uncached: true }],
  },
  stats: {
    type: 'stats',
    index: { blocks: 1, bytes: 16, ageSeconds: 0, ready: false },
    residentBytes: 61_000_000,
    cpuMilliseconds: 5200,
  },
} as const;

/** What a hub of the first release sends. */
const FIRST_HUB = {
  welcome: { type: 'welcome', release: '0.1.0', epoch: 7, recorded: [] },
  arm: {
    type: 'arm',
    ...MIGRATION,
    role: 'source',
    mode: 'accelerate',
    sessionKey: KEY,
    downtimeLimitMs: 900,
    volumes: ['rootdisk'],
    limits: { linkBytesPerSecond: 125_000_000 },
  },
  go: { type: 'go', ...MIGRATION, role: 'source' },
  disarm: { type: 'disarm', ...MIGRATION, role: 'target', reason: 'PeerRaw' },
  recorded: { type: 'recorded', migrationUid: UID },
} as const;

const text = (message: object): string => JSON.stringify(message);
/** The same from a release that has added something at every level. */
const later = (message: object): object => ({ ...message, later: { x: 1 }, protocol: 9 });

describe('a sidecar of the first release', () => {
  it.each(Object.entries(FIRST_SIDECAR))('is understood: %s', (_type, message) => {
    expect(decodeSidecarMessage(text(message))).toEqual(message);
  });

  it('gets none of the messages that came later, because it does not ask for them', () => {
    const hello = decodeSidecarMessage(text(FIRST_SIDECAR.hello));
    expect(hello.type === 'hello' && hello.accepts).toBeFalsy();
    // What it would do with one: its list of types ends with those of FIRST_HUB.
    for (const type of laterHubMessages) expect(Object.keys(FIRST_HUB)).not.toContain(type);
  });

  it('is brought together with one of this release, by messages that it knows', () => {
    const { type: _type, role: _role, ...plan } = FIRST_HUB.arm;
    let state: Coordination = startCoordination({ ...plan, volumes: [...plan.volumes] });
    const sent: { readonly to: string; readonly message: HubMessage }[] = [];
    const step = (event: Parameters<typeof stepCoordination>[1]): void => {
      const next = stepCoordination(state, event);
      state = next.state;
      sent.push(...next.effects);
    };
    step({ type: 'connected', role: 'source' });
    step({ type: 'connected', role: 'target' });
    for (const message of [FIRST_SIDECAR.armed, FIRST_SIDECAR.holding]) {
      const decoded = decodeSidecarMessage(text(message));
      if (decoded.type === 'armed' || decoded.type === 'holding') step({ type: 'message', message: decoded });
    }
    expect(sent.map(({ to, message }) => `${message.type} to ${to}`)).toEqual([
      'arm to source',
      'arm to target',
      'go to source',
    ]);
    for (const { message } of sent) {
      expect(Object.keys(FIRST_HUB)).toContain(message.type);
      const first = FIRST_HUB[message.type as 'arm' | 'go'];
      // A field that the first release requires is always there.
      expect(Object.keys(JSON.parse(encodeHubMessage(message)))).toEqual(
        expect.arrayContaining(Object.keys(first)),
      );
    }
  });
});

describe('a sidecar of this release', () => {
  it.each(Object.entries(FIRST_HUB))('understands a hub of the first release: %s', (_type, message) => {
    expect(decodeHubMessage(text(message))).toEqual(message);
  });

  it.each(Object.entries(FIRST_HUB))('and one of the next: %s', (_type, message) => {
    expect(decodeHubMessage(text(later(message)))).toEqual(message);
  });

  it('follows ARM and GO of a hub of the first release', () => {
    let state: ArmingState = idle;
    const effects: string[] = [];
    const step = (event: Parameters<typeof stepArming>[1]): void => {
      const next = stepArming(state, event, FIRST_HUB.welcome.epoch);
      state = next.state;
      effects.push(
        ...next.effects.map((effect) => (effect.type === 'send' ? effect.message.type : effect.type)),
      );
    };
    const arm = decodeHubMessage(text(FIRST_HUB.arm));
    if (arm.type !== 'arm') throw new Error('not an ARM');
    const { type: _type, ...order } = arm;
    step({ type: 'arm', order });
    step({ type: 'socketTaken' });
    step({ type: 'connection', nowMs: 0 });
    step({ type: 'go', migrationUid: UID, epoch: 7 });
    expect(effects).toEqual(['takeSocket', 'armed', 'holding', 'startFramed']);
  });
});

describe('a hub of this release', () => {
  it.each(Object.entries(FIRST_SIDECAR))('understands a sidecar of the next: %s', (_type, message) => {
    expect(decodeSidecarMessage(text(later(message)))).toEqual(message);
  });

  it('takes link versions that it does not know, for the two sides may', () => {
    const hello = {
      ...FIRST_SIDECAR.hello,
      link: { min: 2, max: 4 },
      accepts: ['configure', 'of-next-year'],
    };
    expect(decodeSidecarMessage(text(hello))).toEqual(hello);
  });

  it('refuses by name what it cannot know', () => {
    for (const message of [
      { ...FIRST_SIDECAR.armed, type: 'of-next-year' },
      { ...FIRST_SIDECAR.raw, reason: 'no constant' },
      { ...FIRST_SIDECAR.raw, reason: 'A'.repeat(65) },
    ])
      expect(() => decodeSidecarMessage(text(message))).toThrow(ControlMessageError);
  });

  it('takes what a later release has to say for a reason that it does not know', () => {
    const volumes = [{ ...FIRST_SIDECAR.result.volumes[0], offReason: 'OfNextYear' }];
    const migrations = [{ ...MIGRATION, role: 'source', phase: 'raw', reason: 'OfNextYear' }];
    const known = 'ReasonOfLaterRelease';
    expect(decodeSidecarMessage(text({ ...FIRST_SIDECAR.raw, reason: 'OfNextYear' }))).toEqual({
      ...FIRST_SIDECAR.raw,
      reason: known,
    });
    expect(
      decodeSidecarMessage(text({ ...FIRST_SIDECAR.result, reason: 'OfNextYear', volumes })),
    ).toMatchObject({ reason: known, volumes: [{ offReason: known }] });
    expect(decodeSidecarMessage(text({ ...FIRST_SIDECAR.hello, migrations }))).toMatchObject({
      migrations: [{ reason: known }],
    });
    expect(decodeHubMessage(text({ ...FIRST_HUB.disarm, reason: 'OfNextYear' }))).toMatchObject({
      reason: known,
    });
    // A name that every object has is no reason.
    expect(decodeHubMessage(text({ ...FIRST_HUB.disarm, reason: 'Constructor' }))).toMatchObject({
      reason: known,
    });
  });
});
