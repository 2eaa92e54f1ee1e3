import { describe, expect, it } from 'vitest';
import {
  type NasAwareMigrationStatus,
  nasAwareMigrationStatusSchema,
} from '../../crds/nas-aware-migration.ts';
import { boundedStatus } from './bounded-status.ts';

const status: NasAwareMigrationStatus = {
  phase: 'Migrating',
  migration: { name: 'move-db', uid: 'vmim-1', phase: 'Running' },
  source: { pod: 'virt-launcher-a', node: 'node-1' },
  conditions: [
    {
      type: 'Complete',
      status: 'False',
      reason: 'Migrating',
      message: '',
      lastTransitionTime: '2026-06-01T12:00:00Z',
    },
  ],
};

describe('a status within its bounds', () => {
  it('is left as it is', () => {
    expect(boundedStatus(status)).toBe(status);
  });

  it.each<[string, Partial<NasAwareMigrationStatus>, object]>([
    [
      'a phase that is too long is cut',
      { migration: { name: 'move-db', phase: 'P'.repeat(65) } },
      { migration: { name: 'move-db', phase: 'P'.repeat(64) } },
    ],
    [
      'a node that cannot be one is left out',
      { source: { pod: 'virt-launcher-a', node: 'Node_1' } },
      { source: { pod: 'virt-launcher-a' } },
    ],
    [
      'a node that is too long and cannot be one is left out',
      { source: { pod: 'virt-launcher-a', node: 'N'.repeat(300) } },
      { source: { pod: 'virt-launcher-a' } },
    ],
    ['what lacks what it needs is left out', { migration: { name: 'No Name', uid: 'u' } }, {}],
    [
      'a condition that cannot be is left out, and the others stay',
      { conditions: [{ ...status.conditions![0]!, reason: '' }, ...status.conditions!] },
      { conditions: status.conditions },
    ],
  ])('%s', (_what, change, expected) => {
    const given = { ...status, ...change };
    const bounded = boundedStatus(given);
    const kept = Object.keys(change)[0] as keyof NasAwareMigrationStatus;
    expect(bounded[kept]).toEqual((expected as NasAwareMigrationStatus)[kept]);
    expect(bounded.phase).toBe('Migrating');
    expect(nasAwareMigrationStatusSchema.safeParse(bounded).success).toBe(true);
    expect(given).toMatchObject(change);
  });
});
