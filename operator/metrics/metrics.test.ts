import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { exampleHello, exampleProgress } from '../../control/example-messages.ts';
import { countActive, OperatorMetrics } from './metrics.ts';
import { metricsPage } from './metrics-page.ts';

describe('metrics', () => {
  it('are documented as they are', async () => {
    const page = await readFile(path.resolve(import.meta.dirname, '../../docs/metrics.md'), 'utf8');
    expect(page).toBe(await metricsPage());
  });

  it('have names by convention', async () => {
    for (const { name, type } of await new OperatorMetrics().registry.getMetricsAsJSON()) {
      expect(name).toMatch(/^nasmig_[a-z_]+$/);
      if (String(type) === 'counter') expect(name).toMatch(/_total$/);
      if (String(type) === 'histogram') expect(name).toMatch(/_seconds$/);
    }
  });

  it('tell of sidecars by node, and of migrations that run', async () => {
    const metrics = new OperatorMetrics();
    metrics.sources = { ...metrics.sources, nodeOfPod: () => 'node-1', clusterBreakerOpen: () => true };
    metrics.fleet.connected('pod', exampleHello.index);
    metrics.running.running({ namespace: 'shop', name: 'move-db', vmi: 'db' }, exampleProgress);
    const text = await metrics.registry.metrics();
    expect(text).toContain('nasmig_index_blocks{node="node-1"} 81920');
    expect(text).toContain('nasmig_cluster_breaker_open 1');
    expect(text).toContain('nasmig_migration_link_bytes{namespace="shop",name="move-db",vmi="db"} 31000000');
    metrics.fleet.clear();
    metrics.running.clear();
    const after = await metrics.registry.metrics();
    expect(after).not.toMatch(/nasmig_(index_blocks|migration_link_bytes)\{/);
  });

  it('count a finished migration', async () => {
    const metrics = new OperatorMetrics();
    metrics.finished({
      phase: 'Succeeded',
      result: {
        accelerated: true,
        attempt: 'Accelerated',
        savedBytes: 100,
        linkBytes: 20,
        durationMs: 3000,
        downtimeMs: 150,
        pages: { reference: 5, literalRaw: 1, literalCompressed: 2, zero: 3 },
      },
    });
    metrics.finished({ phase: 'Failed' });
    const text = await metrics.registry.metrics();
    expect(text).toContain('nasmig_migrations_total{phase="Succeeded",attempt="Accelerated",reason=""} 1');
    expect(text).toContain('nasmig_migrations_total{phase="Failed",attempt="Plain",reason=""} 1');
    expect(text).toContain('nasmig_saved_bytes_total 100');
    expect(text).toContain('nasmig_pages_total{kind="reference"} 5');
    expect(text).toContain('nasmig_migration_downtime_seconds_bucket{le="0.2",attempt="Accelerated"} 1');
  });

  it('count what is not finished by phase, from nothing on', async () => {
    const metrics = new OperatorMetrics();
    const active = () => metrics.registry.getSingleMetricAsString('nasmig_active_migrations');
    expect(await active()).toContain('nasmig_active_migrations{phase="Migrating"} 0');
    const phases = [
      undefined,
      'Pending',
      'Preparing',
      'Migrating',
      'Migrating',
      'Succeeded',
      'Failed',
      'Cancelled',
    ];
    metrics.sources = { ...metrics.sources, activeMigrations: () => countActive(phases) };
    expect((await active()).split('\n').slice(2)).toEqual([
      'nasmig_active_migrations{phase="Pending"} 2',
      'nasmig_active_migrations{phase="Preparing"} 1',
      'nasmig_active_migrations{phase="Migrating"} 2',
    ]);
  });
});
