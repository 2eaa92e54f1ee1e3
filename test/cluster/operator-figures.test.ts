import { expect, it } from 'vitest';
import { OperatorMetrics } from '../../operator/metrics/metrics.ts';
import { armingTimes } from './operator-figures.ts';

it('reads the operator’s own page', async () => {
  const metrics = new OperatorMetrics();
  expect(armingTimes(await metrics.registry.metrics())).toBeUndefined();
  for (const seconds of [0.02, 0.04, 0.3]) metrics.arming.observe(seconds);
  expect(armingTimes(await metrics.registry.metrics())).toEqual({ count: 3, meanMs: 120, below100Ms: 2 });
});
