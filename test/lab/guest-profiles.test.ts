import { expect, it } from 'vitest';
import { GUEST_PROFILES, profileKernelArguments } from './guest-profiles.ts';

const MIB = 2 ** 20;
const { warm, full, mixed, aged, busy, cold } = GUEST_PROFILES;

it('warm has at least 40 MB of random anonymous memory', () => {
  expect(warm.randomMiB * MIB).toBeGreaterThanOrEqual(40e6);
  expect(warm.beforeMigration).toEqual([]);
});

it('full has 0.6 times the memory of the files it reads', () => {
  expect(full.memoryMiB / full.readMiB).toBeCloseTo(0.6);
});

it('mixed has more incompressible anonymous memory than page cache', () => {
  expect(mixed.randomMiB).toBeGreaterThan(mixed.readMiB);
  expect(mixed.randomMiB + mixed.readMiB).toBeGreaterThan(0.8 * mixed.memoryMiB);
});

it('aged has a disk with a past, and rewrites 100 MB of its cached files after the index', () => {
  expect(aged.churnMiB).toBeGreaterThan(500);
  expect(aged).toMatchObject({ readMiB: warm.readMiB, randomMiB: warm.randomMiB });
  expect(aged.beforeMigration).toEqual([{ kind: 'rewriteFiles', bytes: 100e6, seed: 1 }]);
});

it('busy rewrites anonymous memory and files while it is moved', () => {
  const [load] = busy.beforeMigration;
  expect(load).toMatchObject({ kind: 'load' });
  if (load?.kind !== 'load') throw new Error('unreachable');
  expect(load.anonymousBytesPerSecond).toBeGreaterThan(0);
  expect(load.fileBytesPerSecond).toBeGreaterThan(0);
});

it('cold reads nothing from its disk', () => {
  expect(cold.readMiB).toBe(0);
  expect(cold.randomMiB + cold.textMiB).toBeGreaterThan(cold.memoryMiB / 2);
});

it('guests that differ only in what they do before the migration share a saved state', () => {
  expect(profileKernelArguments(busy)).toEqual(profileKernelArguments(warm));
  expect(profileKernelArguments(aged)).not.toEqual(profileKernelArguments(warm));
});
