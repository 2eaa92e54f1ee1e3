import { expect, it } from 'vitest';
import { exampleProgress } from '../../control/example-messages.ts';
import { OperatorMetrics } from '../../operator/metrics/metrics.ts';
import { armingTimes, runningFigures } from './operator-figures.ts';

it('reads the operator’s own page', async () => {
  const metrics = new OperatorMetrics();
  expect(armingTimes(await metrics.registry.metrics())).toBeUndefined();
  for (const seconds of [0.02, 0.04, 0.3]) metrics.arming.observe(seconds);
  expect(armingTimes(await metrics.registry.metrics())).toEqual({ count: 3, meanMs: 120, below100Ms: 2 });
});

it('reads a running migration from it, and no other', async () => {
  const metrics = new OperatorMetrics();
  const name = { namespace: 'shop', migration: 'move-db' };
  metrics.running.running({ namespace: 'shop', name: 'move-db2', vmi: 'db2' }, exampleProgress);
  expect(runningFigures(await metrics.registry.metrics(), name)).toBeUndefined();
  const pages = { zero: 1, reference: 2, literalRaw: 3, literalCompressed: 4 };
  metrics.running.running({ namespace: 'shop', name: 'move-db', vmi: 'db' }, { ...exampleProgress, pages });
  const { ramBytes, remainingBytes, qemuBytes } = exampleProgress;
  expect(runningFigures(await metrics.registry.metrics(), name)).toEqual({
    pages,
    ramBytes,
    remainingBytes,
    qemuBytes,
  });
});
