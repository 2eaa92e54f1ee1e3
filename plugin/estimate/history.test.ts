import { describe, expect, it } from 'vitest';
import { migration, NOW_MS, succeeded } from '../testing/objects.ts';
import { describe as inWords } from './estimate.ts';
import { estimates, spreadOf } from './history.ts';

describe('a spread', () => {
  it('is the median of what is there', () => {
    expect(spreadOf([])).toBeUndefined();
    expect(spreadOf([3])).toEqual({ median: 3, min: 3, max: 3 });
    expect(spreadOf([9, 1, 2])).toEqual({ median: 2, min: 1, max: 9 });
    expect(spreadOf([4, 1, 2, 9])).toEqual({ median: 3, min: 1, max: 9 });
  });
});

describe('estimates', () => {
  const all = [
    migration('a', succeeded('Accelerated', { savedPercent: 90, savedBytes: 900 })),
    migration(
      'b',
      succeeded('Observed', { durationMs: 40_000, estimate: { savedPercent: 70, savedBytes: 700 } }),
    ),
    migration('c', succeeded('Plain', { reason: 'NoSidecar', savedBytes: 1, savedPercent: 1 })),
    migration('d', succeeded('FailedWhileArmed')),
    migration('e', { phase: 'Migrating' }),
    migration('f', succeeded('Observed', { estimate: { savedPercent: 50 } }), {
      vmi: 'web',
      namespace: 'other',
    }),
  ];

  it('count each kind, and take numbers only from what was measured', () => {
    const [, db] = estimates(all);
    expect(db).toMatchObject({
      namespace: 'shop',
      vmi: 'db',
      observed: 1,
      accelerated: 1,
      plain: 1,
      failedWhileArmed: 1,
      plainReasons: [{ reason: 'NoSidecar', count: 1 }],
      savedPercent: { median: 80, min: 70, max: 90 },
      savedBytes: { median: 800, min: 700, max: 900 },
      observedDurationMs: { median: 40_000 },
      acceleratedDurationMs: { median: 14_920 },
    });
    expect(estimates(all).map(({ namespace, vmi }) => `${namespace}/${vmi}`)).toEqual([
      'other/web',
      'shop/db',
    ]);
  });

  it('say in words what there is', () => {
    const [web, db] = estimates(all);
    if (web === undefined || db === undefined) throw new Error('two estimates are expected');
    expect(inWords(db, NOW_MS)).toEqual([
      'shop/db: 2 measured, 1 accelerated and 1 observed, the last 30s ago.',
      '  saved               80 % (70 % to 90 %), 800 B (700 B to 900 B) a migration',
      '  on the link         76.3 MiB',
      '  from the NAS        667.6 MiB',
      '  took, accelerated   14.9 s, VM stopped 111 ms',
      '  took, observed      40.0 s',
      '  1 plain migration said nothing about it: NoSidecar',
      '  1 accelerated attempt failed: kubectl nasmig explain vmi/db -n shop',
    ]);
    expect(inWords(web, NOW_MS).at(-1)).toContain('--acceleration Preferred');
  });

  it('guess nothing for a VM that was never measured', () => {
    const [none] = estimates([], [{ namespace: 'shop', name: 'db' }]);
    if (none === undefined) throw new Error('an estimate is expected');
    expect(inWords(none, NOW_MS)).toEqual([
      'shop/db: nothing was measured yet.',
      '  Measure it, without changing a byte: kubectl nasmig migrate db -n shop --acceleration Observe',
    ]);
  });
});
