// Whole migrations with the image: two lab nodes, real QEMUs under libvirt, operator and injected sidecars from the assembled image by a
// real OCI runtime, on a real API server; and the dashboards with the data of a real Prometheus that scrapes the operator each second
// meanwhile. What panels show is compared with what the object's status says. Leaves what the pictures in the documentation are drawn
// from in build/dashboards.
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import { imageConfiguration } from '../../hack/ship/dockerfile.ts';
import { assembleRootfs } from '../../hack/ship/image-rootfs.ts';
import { fleetDashboard } from '../../observability/dashboards/fleet.ts';
import { migrationDashboard } from '../../observability/dashboards/migration.ts';
import type { Dashboard, Panel } from '../../observability/dashboards/panel.ts';
import { dataFile } from '../../observability/picture/draw.ts';
import {
  type DashboardData,
  type PanelSeries,
  panelsOf,
  seriesName,
  withVariables,
} from '../../observability/picture/panel-data.ts';
import { scaledTime } from '../../observability/rules/rule.ts';
import { ruleFile } from '../../observability/rules/rule-file.ts';
import { SIDECAR_CONTAINER } from '../../operator/kubevirt/launcher-pod.ts';
import { Cluster } from '../cluster/cluster.ts';
import { ASSEMBLED_IMAGE, ASSEMBLED_IMAGE_ROOTFS } from '../cluster/images.ts';
import { LabCluster } from '../cluster/lab-cluster.ts';
import { operatorInImage } from './operator-image.ts';
import { Prometheus } from './prometheus.ts';
import { record } from './report.ts';

const NAMESPACE = 'shop';
const VM = 'db';
const ACCELERATED = { 'nasmigration.io/accelerate': 'true' };
/** Slow enough for a migration to last some scrapes. */
const LINK_MBIT = 200;
const NAS_MBIT = 1000;
const MIGRATION_TIMEOUT_MS = 180_000;
/** An hour of a rule is ten minutes here, longer than the whole test. */
const TIME_DIVISOR = 6;
const SHORTEST_RANGE_MS = 2000;
const STEP_MS = 1000;
/** The operator tells of an ended migration for a minute; a scrape or two are enough. */
const SETTLE_MS = 3000;

let dir: string;
let lab: LabCluster;
let cluster: Cluster;
let prometheus: Prometheus;
let beganMs: number;
let accelerated: { beganMs: number; endedMs: number; status: NasAwareMigrationStatus };
const seen = { panels: 0, panelsWithData: 0 };

vi.setConfig({ testTimeout: MIGRATION_TIMEOUT_MS + 60_000 });

beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'nasmig-lab-image-'));
  await assembleRootfs(ASSEMBLED_IMAGE_ROOTFS);
  lab = await LabCluster.start({
    ...{ linkMbit: LINK_MBIT, nasMbit: NAS_MBIT },
    sidecarImage: ASSEMBLED_IMAGE,
    operatorCommand: operatorInImage(ASSEMBLED_IMAGE_ROOTFS, dir),
  });
  cluster = new Cluster(lab);
  prometheus = await Prometheus.start({
    rules: ruleFile(scaledTime(TIME_DIVISOR, SHORTEST_RANGE_MS)),
    targets: [{ job: 'operator', ports: lab.operatorMetricsPorts }],
  });
  beganMs = Date.now();
  await lab.createNamespace(NAMESPACE);
  await cluster.applyExample('nas-migration-policy.yaml');
  await lab.createVm({ namespace: NAMESPACE, name: VM, guest: 'warm', labels: ACCELERATED });
  await lab.waitForIndex(NAMESPACE, VM);
}, 300_000);

afterAll(async () => {
  await record('prometheus', seen);
  await prometheus?.stop();
  const keepLogsIn = process.env['NASMIG_LAB_LOGS'];
  await lab?.stop(keepLogsIn === undefined ? {} : { keepLogsIn });
  if (dir !== undefined) await rm(dir, { recursive: true, force: true });
}, 60_000);

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The value that a query has at the end. */
async function lastOf(expr: string): Promise<number> {
  const [series] = await prometheus.query(expr);
  return series?.values[0]?.[1] ?? Number.NaN;
}

async function seriesOf(panel: Panel, fromMs: number, toMs: number): Promise<PanelSeries[]> {
  const range = `${Math.ceil((toMs - fromMs) / 1000)}s`;
  const answers = await Promise.all(
    panel.queries.map(async (query) => {
      const expr = withVariables(query.expr, { range, rateInterval: '4s' });
      const found =
        panel.kind === 'graph'
          ? await prometheus.queryRange(expr, fromMs, toMs, STEP_MS)
          : await prometheus.query(expr, toMs);
      return found.map(({ labels, values }) => ({
        name: seriesName(query, labels),
        points: values.map(
          ([time, value]) => [Math.round(time - fromMs / 1000), significant(value)] as const,
        ),
      }));
    }),
  );
  return answers.flat();
}

/** What a picture can show. */
const significant = (value: number) => (Number.isFinite(value) ? Number(value.toPrecision(4)) : Number.NaN);

async function dataOf(
  dashboard: Dashboard,
  caption: string,
  fromMs: number,
  toMs: number,
): Promise<DashboardData> {
  const panels = await Promise.all(
    panelsOf(dashboard).map(async (panel) => ({
      title: panel.title,
      series: await seriesOf(panel, fromMs, toMs),
    })),
  );
  const data = {
    name: dashboard.name,
    caption,
    seconds: Math.round((toMs - fromMs) / 1000),
    panels,
  };
  await mkdir(path.dirname(dataFile(dashboard.name)), { recursive: true });
  await writeFile(dataFile(dashboard.name), JSON.stringify(data));
  return data;
}

/** Titles of panels of which no series has a number. */
function empty({ panels }: DashboardData): string[] {
  const without = panels.filter(
    ({ series }) => !series.some(({ points }) => points.some(([, value]) => Number.isFinite(value))),
  );
  seen.panels += panels.length;
  seen.panelsWithData += panels.length - without.length;
  return without.map(({ title }) => title);
}

/** `/proc/<pid>/status` of a process, by field. */
async function statusOf(pid: number): Promise<Record<string, string>> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8');
  return Object.fromEntries(
    text.split('\n').map((line) => line.split(/:\s+/, 2) as [string, string | undefined] as [string, string]),
  );
}

/** Whether the root of a process can be written by root, from outside. */
async function isRootReadOnly(pid: number): Promise<boolean> {
  const mounts = await readFile(`/proc/${pid}/mounts`, 'utf8');
  const root = mounts.split('\n').findLast((line) => line.split(' ')[1] === '/');
  return root?.split(' ')[3]?.split(',').includes('ro') === true;
}

describe('image', () => {
  it('is what the sidecars run: as 107, without capabilities, on a read-only root', async () => {
    const home = await lab.homeOf(NAMESPACE, VM);
    const sidecar = lab.containerOf(NAMESPACE, home.metadata?.name ?? '', SIDECAR_CONTAINER);
    if (sidecar === undefined) throw new Error('the pod of the VM has no sidecar');
    const status = await statusOf(sidecar.initPid);
    expect(status['Uid']?.split('\t')[0]).toBe('107');
    expect(status['CapEff']).toMatch(/^0+$/);
    expect(status['CapBnd']).toMatch(/^0+$/);
    expect(status['NoNewPrivs']).toBe('1');
    expect(await isRootReadOnly(sidecar.initPid)).toBe(true);
    const { entrypoint, cmd } = imageConfiguration();
    expect(await readFile(`/proc/${sidecar.initPid}/cmdline`, 'utf8')).toBe(
      [...entrypoint, ...cmd, ''].join('\0'),
    );
  });
});

describe('dashboard of one migration', () => {
  let data: DashboardData;

  it('has data in every panel while a VM moves', async () => {
    const startMs = Date.now();
    await cluster.applyExample('nas-aware-migration.yaml');
    const status = await cluster.waitForEnd(NAMESPACE, 'move-db', MIGRATION_TIMEOUT_MS);
    expect(status).toMatchObject({ phase: 'Succeeded', result: { accelerated: true } });
    accelerated = { beganMs: startMs, endedMs: Date.now(), status };
    await sleep(SETTLE_MS);
    data = await dataOf(
      migrationDashboard,
      `A lab migration of a ${Math.round((await lastOf('max_over_time(nasmig_migration_ram_bytes[5m])')) / 2 ** 20)} MiB guest, link ${LINK_MBIT} Mbit/s, NAS ${NAS_MBIT} Mbit/s; a scrape each second`,
      startMs,
      accelerated.endedMs + SETTLE_MS,
    );
    expect(empty(data)).toEqual([]);
  });

  it('shows what happened', () => {
    const { result } = accelerated.status;
    const points = (title: string, name: string) => {
      const panel = data.panels.find((one) => one.title === title);
      return panel?.series.find((one) => one.name === name)?.points.map(([, value]) => value) ?? [];
    };
    const grows = (values: readonly number[]) =>
      values.every((value, i) => i === 0 || value >= (values[i - 1] ?? 0));
    for (const name of ['QEMU', 'link', 'NAS']) {
      const values = points('Bytes so far', name);
      expect(values.length, name).toBeGreaterThan(3);
      expect(grows(values), `${name}: ${values}`).toBe(true);
    }
    const last = (title: string, name: string) => points(title, name).at(-1) ?? Number.NaN;
    // The last word of a running migration is at most some seconds older than its end; four digits are kept.
    expect(last('Bytes so far', 'link')).toBeLessThanOrEqual((result?.linkBytes ?? 0) * 1.001);
    expect(last('Bytes so far', 'link')).toBeGreaterThan((result?.linkBytes ?? 0) * 0.5);
    expect(last('Pages so far', 'reference')).toBeGreaterThan((result?.pages?.reference ?? 0) * 0.5);
    expect(Math.min(...points('What is left', 'move-db'))).toBeLessThan(
      Math.max(...points('What is left', 'move-db')) / 2,
    );
  });
});

describe('fleet dashboard', () => {
  it('has data in every panel after an accelerated and a plain migration', async () => {
    await cluster.apply({
      apiVersion: 'nasmigration.io/v1alpha1',
      kind: 'NasAwareMigration',
      metadata: { namespace: NAMESPACE, name: 'move-db-plainly' },
      spec: { vmiName: VM, acceleration: 'Disabled' },
    });
    const plain = await cluster.waitForEnd(NAMESPACE, 'move-db-plainly', MIGRATION_TIMEOUT_MS);
    expect(plain).toMatchObject({
      phase: 'Succeeded',
      result: { attempt: 'Plain', reason: 'AccelerationDisabled' },
    });
    await sleep(SETTLE_MS);
    const data = await dataOf(
      fleetDashboard,
      `A lab with two nodes and one VM: its sidecar starts, an accelerated migration, a plain one; a scrape each second`,
      beganMs,
      Date.now(),
    );
    expect(empty(data)).toEqual([]);
  });

  it('has counted what the object’s status says', async () => {
    const { result } = accelerated.status;
    expect(await lastOf('sum(nasmig_link_bytes_total)')).toBe(result?.linkBytes);
    expect(await lastOf('sum(nasmig_nas_read_bytes_total)')).toBe(result?.nasBytes);
    expect(await lastOf('sum(nasmig_saved_bytes_total)')).toBe(result?.savedBytes);
    expect(await lastOf('sum(nasmig_pages_total{kind="reference"})')).toBe(result?.pages?.reference);
    expect(await lastOf('sum(nasmig_migrations_total{attempt="Accelerated"})')).toBe(1);
    expect(await lastOf('sum(nasmig_migrations_total{reason="AccelerationDisabled"})')).toBe(1);
    expect(await lastOf('sum(nasmig_migration_duration_seconds_sum{attempt="Accelerated"})')).toBeCloseTo(
      (result?.durationMs ?? 0) / 1000,
      6,
    );
    const { savedBytes = 0, linkBytes = 0 } = result ?? {};
    expect(savedBytes).toBeGreaterThan(0);
    expect(await lastOf('nasmig:saved_bytes:ratio1h')).toBeCloseTo(savedBytes / (savedBytes + linkBytes), 2);
  });

  it('has a quiet Alertmanager', async () => {
    expect((await prometheus.firing()).map(({ labels }) => labels['alertname'])).toEqual([]);
  });
});
