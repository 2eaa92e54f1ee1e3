// One valid message of each kind, for tests and for the documentation (which shows them and is checked against them).
import type { Arm, Hello, HubMessage, Progress, Result, SidecarMessage } from './messages.ts';

const migration = { migrationUid: '6f1b7a52-2c9e-4f0a-9a53-0d5f1d3c8e11', epoch: 7 };

export const exampleHello: Hello = {
  type: 'hello',
  pod: { namespace: 'shop', name: 'virt-launcher-db-x7k2p', uid: '0d0a8a3e-77c1-4a3f-8a60-3f6b51c0a001' },
  vmi: { name: 'db', uid: '5f2f0a9c-1a6b-4e1f-8a52-0c5f1d3c8e22' },
  release: '0.1.0',
  link: { min: 1, max: 1 },
  volumes: [{ name: 'rootdisk', sizeBytes: 10_737_418_240, readable: true, uncached: true }],
  index: { blocks: 81_920, bytes: 1_048_576, ageSeconds: 42, ready: true },
  migrations: [],
};

export const exampleArm: Arm = {
  type: 'arm',
  ...migration,
  role: 'source',
  mode: 'accelerate',
  sessionKey: 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=',
  downtimeLimitMs: 900,
  volumes: ['rootdisk'],
  limits: { linkBytesPerSecond: 125_000_000 },
};

const counters = {
  qemuBytes: 756_000_000,
  linkBytes: 31_000_000,
  nasBytes: 610_000_000,
  pages: { reference: 149_000, literalRaw: 1200, literalCompressed: 22_000, zero: 90_000 },
  resends: 0,
};

export const exampleProgress: Progress = {
  type: 'progress',
  ...migration,
  role: 'source',
  sequence: 3,
  stage: 'bulk',
  iteration: 1,
  ramBytes: 1_073_741_824,
  remainingBytes: 210_000_000,
  qemuBytesPerSecond: 400_000_000,
  linkBytesPerSecond: 16_000_000,
  nasBytesPerSecond: 320_000_000,
  ...counters,
};

export const exampleResult: Result = {
  type: 'result',
  ...migration,
  role: 'source',
  outcome: 'accelerated',
  ...counters,
  iterations: 3,
  durationMs: 4100,
  downtimeMs: 180,
  cpuMilliseconds: 1900,
  plainLinkBytes: 757_000_000,
  volumes: [{ name: 'rootdisk', nasBytes: 610_000_000, uncached: true }],
};

export const exampleSidecarMessages: readonly SidecarMessage[] = [
  exampleHello,
  { type: 'armed', ...migration, role: 'target' },
  { type: 'holding', ...migration, role: 'source' },
  { type: 'raw', ...migration, role: 'source', reason: 'NoGo', detail: 'no GO within 2 s' },
  exampleProgress,
  exampleResult,
  { type: 'stats', index: exampleHello.index, residentBytes: 61_000_000, cpuMilliseconds: 5200 },
];

export const exampleHubMessages: readonly HubMessage[] = [
  { type: 'welcome', release: '0.1.0', epoch: 7, recorded: [] },
  { type: 'configure', index: { build: 'full', nasReadBytesPerSecond: 50_000_000 } },
  exampleArm,
  { type: 'go', ...migration, role: 'source' },
  { type: 'disarm', ...migration, role: 'target', reason: 'PeerRaw' },
  { type: 'recorded', migrationUid: migration.migrationUid },
];
