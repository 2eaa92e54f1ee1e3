// `make scale`: the operator with a thousand VMs, a sidecar of each connected, and three hundred migrations created at once, on
// a real API server. Writes build/scale.json, says what it found against what must be reached, and fails when something is
// left behind or more was asked of the API server than is allowed. Times depend on the machine: they are told, not judged.
import { mkdirSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { KubernetesObject } from '@kubernetes/client-node';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import { Informer } from '../../operator/kubernetes/informer.ts';
import { keyOf, resources, splitKey } from '../../operator/kubernetes/resources.ts';
import { clusterRules, namespaceRules } from '../../operator/permissions.ts';
import { type Asked, unused } from '../ship/audit-log.ts';
import { quantile, type Scrape, seriesCount, total } from './prometheus-text.ts';
import { ScaleWorld, until } from './scale-world.ts';
import { SimulatedCluster } from './simulated-cluster.ts';

const REQUESTS_PER_MIGRATION = 30;
/** One more for each so many seconds of a migration. */
const SECONDS_PER_REQUEST = 10;
const MAX_P99_MS = 250;
/** From `kubectl apply` to KubeVirt's migration, and from the target's ARMED to GO: of migrations that come one by one. */
const MAX_APPLY_MS = 1000;
const MAX_ARMING_MS = 100;
const ONE_BY_ONE = 20;
const MAX_RSS_MIB = 256;
/** Prometheus asks every 15 s or more; a page of all series costs the operator time that is not its work. */
const SCRAPE_INTERVAL_MS = 2000;
const ALL_DONE_TIMEOUT_MS = 600_000;
/** Series of a migration stay for a minute after its end. */
const SETTLED_TIMEOUT_MS = 90_000;
/** Idle connections to the API server that the operator's agent keeps, above those it had at rest. */
const SPARE_DESCRIPTORS = 64;

const { values } = parseArgs({
  options: {
    vms: { type: 'string', default: '1000' },
    migrations: { type: 'string', default: '300' },
    'stream-seconds': { type: 'string', default: '15' },
    // Of the chart's Deployment.
    'operator-arguments': { type: 'string', default: '--max-semi-space-size=2 --max-old-space-size=256' },
  },
});
const size = {
  vms: Number(values.vms),
  migrations: Number(values.migrations),
  namespaces: 10,
  nodes: 50,
  streamSeconds: Number(values['stream-seconds']),
};

const said = (text: string) => console.log(`${new Date().toISOString().slice(11, 19)} ${text}`);

said('starting etcd, kube-apiserver and the operator');
// Every VM is on the same NAS here; permits are counted, but nobody is to wait for one.
const world = await ScaleWorld.start({ NASMIG_NAS_READ_PERMITS: String(size.migrations) });
const cluster = new SimulatedCluster(world, size);
let failed = false;
try {
  await world.startOperator(values['operator-arguments'].split(' ').filter((one) => one !== ''));
  failed = !(await run());
} finally {
  await cluster.stop();
  await world.stop();
}
process.exit(failed ? 1 : 0);

async function run(): Promise<boolean> {
  const atRest = await world.usage();
  await cluster.createVms();
  said(`${size.vms} VMs run`);
  await cluster.connectSidecars();
  await cluster.play();
  const alone = await oneByOne();
  said(`${ONE_BY_ONE} migrations came one by one: ${JSON.stringify(alone)}`);
  const sidecars = cluster.sidecarsConnected;
  said(`${sidecars} sidecars are connected; the operator has ${mib((await world.usage()).rssMiB)}`);

  const records = watchRecords();
  await records.informer.synced;
  const before = await world.scrape();
  const askedBefore = (await world.asked()).length;
  const cpuBefore = (await world.usage()).cpuSeconds;
  const startedAt = performance.now();
  const keys = await cluster.createMigrations();
  said(`${keys.length} NasAwareMigrations created`);
  let hubConnections = 0;
  let scrapeAtMs = 0;
  await until('all migrations are over', ALL_DONE_TIMEOUT_MS, async () => {
    if (performance.now() >= scrapeAtMs) {
      hubConnections = Math.max(hubConnections, total(await world.scrape(), 'nasmig_hub_connections'));
      scrapeAtMs = performance.now() + SCRAPE_INTERVAL_MS;
    }
    if (cluster.problems.length > 0) throw new Error(`the simulation failed: ${cluster.problems.join('; ')}`);
    return records.finished.size >= keys.length;
  });
  const seconds = (performance.now() - startedAt) / 1000;
  const after = await world.scrape();
  const asked = await world.asked();
  const inMigrations = asked.slice(askedBefore);
  const cpuSeconds = (await world.usage()).cpuSeconds - cpuBefore;
  said(`all are over after ${seconds.toFixed(1)} s`);

  const leaks = await leftBehind(keys, sidecars, atRest.descriptors);
  const usage = await world.usage();
  const endedWell = await world.stopOperator();
  if (!endedWell) leaks.push('the operator did not end by itself on SIGTERM');

  const allowed = cluster.outcomes.reduce(
    (sum, outcome) => sum + REQUESTS_PER_MIGRATION + Math.floor(outcome.seconds / SECONDS_PER_REQUEST),
    0,
  );
  const reconcile = (share: number) =>
    round((quantile(before, after, 'nasmig_reconcile_duration_seconds', share) ?? 0) * 1000);
  const atOnce = latencies(keys, before, after);
  const wait = (share: number) =>
    round((quantile(before, after, 'nasmig_reconcile_queue_wait_seconds', share) ?? 0) * 1000);
  const report = {
    vms: size.vms,
    migrations: keys.length,
    accelerated: [...records.finished.values()].filter(({ result }) => result?.accelerated === true).length,
    seconds: round(seconds),
    reconcileP50Ms: reconcile(0.5),
    reconcileP99Ms: reconcile(0.99),
    queueWaitP50Ms: wait(0.5),
    queueWaitP99Ms: wait(0.99),
    applyToVmimP50Ms: alone.applyP50Ms,
    applyToVmimP99Ms: alone.applyP99Ms,
    armingP50Ms: alone.armingP50Ms,
    armingP99Ms: alone.armingP99Ms,
    atOnce,
    reconciles:
      total(after, 'nasmig_reconcile_duration_seconds_count') -
      total(before, 'nasmig_reconcile_duration_seconds_count'),
    reconcileErrors:
      (after.get('nasmig_reconcile_duration_seconds_count{outcome="error"}') ?? 0) -
      (before.get('nasmig_reconcile_duration_seconds_count{outcome="error"}') ?? 0),
    apiRequests: inMigrations.length,
    apiRequestsAllowed: allowed,
    apiRequestsByKind: byKind(inMigrations),
    throttled: inMigrations.filter(({ status }) => status === 429).length,
    operatorMaxRssMiB: round(usage.maxRssMiB),
    operatorCpuSeconds: round(cpuSeconds),
    hubConnections,
    leaked: leaks.length,
    leaks,
    unusedPermissions: unused([...clusterRules, ...namespaceRules], asked),
    refusedRequests: asked.filter(({ status }) => status === 401 || status === 403).length,
  };
  mkdirSync('build', { recursive: true });
  writeFileSync('build/scale.json', `${JSON.stringify(report, undefined, 2)}\n`);
  console.log(JSON.stringify(report, undefined, 2));
  return judge(report);
}

/** Each applied when KubeVirt was asked for the one before, on the cluster that is otherwise at rest; nothing of them is left. */
async function oneByOne(): Promise<Latencies> {
  const before = await world.scrape();
  const keys = await cluster.createOneByOne(ONE_BY_ONE);
  await until('migrations one by one are over', ALL_DONE_TIMEOUT_MS, () => cluster.isIdle);
  if (cluster.problems.length > 0) throw new Error(`the simulation failed: ${cluster.problems.join('; ')}`);
  const after = await world.scrape();
  await deleteRecords(keys);
  await until(
    'their records are gone',
    SETTLED_TIMEOUT_MS,
    async () => (await countOf('nasAwareMigrations')) === 0,
  );
  cluster.outcomes.length = 0;
  return latencies(keys, before, after);
}

interface Latencies {
  applyP50Ms: number;
  applyP99Ms: number;
  armingP50Ms: number;
  armingP99Ms: number;
}

/** From apply to KubeVirt's migration as the simulation saw it, and the operator's own measure of arming. */
function latencies(keys: readonly string[], before: Scrape, after: Scrape): Latencies {
  const applied = cluster.askedAfterMs(keys).sort((a, b) => a - b);
  const apply = (share: number) => round(applied[Math.ceil(share * applied.length) - 1] ?? Number.NaN);
  const arming = (share: number) =>
    round((quantile(before, after, 'nasmig_arming_seconds', share) ?? Number.NaN) * 1000);
  return {
    applyP50Ms: apply(0.5),
    applyP99Ms: apply(0.99),
    armingP50Ms: arming(0.5),
    armingP99Ms: arming(0.99),
  };
}

function judge(report: {
  reconcileP99Ms: number;
  applyToVmimP99Ms: number;
  armingP99Ms: number;
  operatorMaxRssMiB: number;
  apiRequests: number;
  apiRequestsAllowed: number;
  leaked: number;
  refusedRequests: number;
}): boolean {
  const line = (isGood: boolean, text: string) => {
    console.log(`${isGood ? 'reached   ' : 'NOT REACHED'} ${text}`);
    return isGood;
  };
  line(
    report.reconcileP99Ms < MAX_P99_MS,
    `reconcile p99 ${report.reconcileP99Ms} ms, below ${MAX_P99_MS} ms`,
  );
  line(
    report.applyToVmimP99Ms < MAX_APPLY_MS,
    `from apply to KubeVirt's migration p99 ${report.applyToVmimP99Ms} ms, below ${MAX_APPLY_MS} ms`,
  );
  line(report.armingP99Ms < MAX_ARMING_MS, `arming p99 ${report.armingP99Ms} ms, below ${MAX_ARMING_MS} ms`);
  line(
    report.operatorMaxRssMiB < MAX_RSS_MIB,
    `memory ${mib(report.operatorMaxRssMiB)}, below ${MAX_RSS_MIB} MiB`,
  );
  const judged = [
    line(
      report.apiRequests <= report.apiRequestsAllowed,
      `${report.apiRequests} API requests, at most ${report.apiRequestsAllowed}`,
    ),
    line(report.refusedRequests === 0, `${report.refusedRequests} requests without the right to them`),
    line(report.leaked === 0, `${report.leaked} left behind`),
  ];
  return judged.every((isGood) => isGood);
}

/** The ends of migrations as a watch sees them, so that waiting asks the API server for nothing more. */
function watchRecords() {
  const finished = new Map<string, NasAwareMigrationStatus>();
  const informer = new Informer<KubernetesObject & { status?: unknown }>(
    world.api,
    resources.nasAwareMigrations,
  );
  informer.onChange(({ current }) => {
    const status = (current?.status ?? {}) as NasAwareMigrationStatus;
    if (current !== undefined && ['Succeeded', 'Failed', 'Cancelled'].includes(status.phase ?? ''))
      finished.set(keyOf(current), status);
  });
  informer.start();
  return { informer, finished };
}

/** Deletes every record and looks what is still there: objects, permits, sessions, series, descriptors. */
async function leftBehind(
  keys: readonly string[],
  sidecars: number,
  descriptorsAtRest: number,
): Promise<string[]> {
  const leaks: string[] = [];
  const isOwn = (what: string, isSo: boolean) => {
    if (!isSo) leaks.push(what);
  };
  const settled = async (what: string, isSo: () => Promise<boolean> | boolean) =>
    isOwn(
      what,
      await until(what, SETTLED_TIMEOUT_MS, isSo).then(
        () => true,
        () => false,
      ),
    );
  isOwn(
    `${cluster.outcomes.length} of ${keys.length} migrations were played to the end`,
    cluster.outcomes.length === keys.length,
  );
  await deleteRecords(keys);
  await settled('NasAwareMigrations', async () => (await countOf('nasAwareMigrations')) === 0);
  await settled(
    'VirtualMachineInstanceMigrations',
    async () => (await countOf('virtualMachineInstanceMigrations')) === 0,
  );
  await settled('results that no hub recorded', () => cluster.unrecorded === 0);
  await settled(
    'sessions of pods that are gone',
    async () => (await gauge('nasmig_hub_connections')) <= sidecars,
  );
  for (const name of [
    'nasmig_active_migrations',
    'nasmig_coordinated_migrations',
    'nasmig_nas_permits_in_use',
    'nasmig_nas_permits_waiting',
    'nasmig_reconcile_queue_depth',
  ])
    await settled(name, async () => (await gauge(name)) === 0);
  await settled(
    'series of migrations that ended',
    async () => seriesCount(await world.scrape(), 'nasmig_migration_ram') === 0,
  );
  await cluster.disconnect();
  await settled(
    'sessions of sidecars that are gone',
    async () => (await gauge('nasmig_hub_connections')) === 0,
  );
  await settled(
    'open descriptors',
    async () => (await world.usage()).descriptors <= descriptorsAtRest + SPARE_DESCRIPTORS,
  );
  return leaks;
}

async function deleteRecords(keys: readonly string[]): Promise<void> {
  for (const key of keys) {
    const { namespace, name } = splitKey(key);
    await world.api.delete(resources.nasAwareMigrations, namespace, name);
  }
}

async function countOf(kind: 'nasAwareMigrations' | 'virtualMachineInstanceMigrations'): Promise<number> {
  const { items } = await world.api.list(resources[kind], undefined, { limit: '500' });
  return items.length;
}

async function gauge(name: string): Promise<number> {
  return total(await world.scrape(), name);
}

function byKind(asked: readonly Asked[]): Record<string, number> {
  const counts = new Map<string, number>();
  for (const { verb, resource } of asked) {
    const kind = `${verb} ${resource}`;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return Object.fromEntries([...counts].sort((a, b) => b[1] - a[1]));
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function mib(value: number): string {
  return `${value.toFixed(1)} MiB`;
}
