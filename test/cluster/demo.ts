// `make demo`: live-migrates a running VM twice, plainly and NAS-aware, between two nodes of the lab, by `kubectl apply` and
// the operator, and prints the two side by side. What is compared was measured from outside: bytes at the interfaces, time by
// libvirt's call and answer, the guest's gap by its beacons, the streams by recorders. Writes build/demo.json.

import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { SIDECAR_CONTAINER } from '../../operator/kubevirt/launcher-pod.ts';
import { DEMO_FILE, recordDemo } from '../lab/demo-file.ts';
import {
  DemoOptions as CommonOptions,
  describeDemo,
  PROFILE_NAMES,
  readDemoOptions,
} from '../lab/demo-options.ts';
import { type DemoRecord, demoTable, type KnownOfDemo, mebibytes, seconds } from '../lab/demo-report.ts';
import { GUEST_PROFILES } from '../lab/guest-profiles.ts';
import { LiveLine } from '../lab/live-line.ts';
import { countPagesOnDisk, type MemoryStatistics } from '../lab/memory-statistics.ts';
import { QmpClient } from '../lab/qmp.ts';
import { type LauncherPod, POD_PATHS } from '../launcher/launcher-pod.ts';
import type { MigrationResult } from '../launcher/live-migration.ts';
import { Cluster } from './cluster.ts';
import type { Guest, GuestCheck } from './driver.ts';
import { LabCluster } from './lab-cluster.ts';
import type { RecordedMigration } from './migration-recording.ts';
import { runningFigures } from './operator-figures.ts';

/** KubeVirt has 8 channels or, with a CPU limit, none. */
const Options = CommonOptions.extend({ channels: z.enum(['0', '1', '8']).default('8').transform(Number) });
type DemoOptions = z.infer<typeof Options>;

const USAGE = `usage: make demo [GUEST=${PROFILE_NAMES.join('|')}] [LINK=Mbit/s] [NAS=Mbit/s] [CHANNELS=8|0] [QEMU=bookworm|trixie|sid]
       (0 Mbit/s: unlimited; 0 or 1 channels: the VM has a CPU limit, and KubeVirt migrates over one connection)`;

/** Without an end after this long the demo fails. */
const TIMEOUT_MS = 240_000;
/** As often as a sidecar reports. */
const PROGRESS_MS = 1000;
const DUMP_TIMEOUT_MS = 120_000;
const VM = 'db';
/** examples/nas-aware-migration.yaml moves `db` in this namespace. */
const ACCELERATED = {
  namespace: 'shop',
  migration: 'move-db',
  label: { 'nasmigration.io/accelerate': 'true' },
};
const PLAIN_NAMESPACE = 'shop-plain';

type Method = 'plain' | 'NAS-aware';

interface Measured {
  readonly status: NasAwareMigrationStatus;
  readonly libvirt: MigrationResult;
  readonly recorded: RecordedMigration;
  readonly gapMs: number | undefined;
  readonly guest: GuestCheck;
}

const say = (message: string): void => console.log(`  ${message}`);

/** How a migration goes: by its object's status, the operator's metrics and the interfaces. */
class ProgressLine {
  readonly #cluster: Cluster;
  readonly #name: { namespace: string; migration: string };
  readonly #startedMs = performance.now();
  readonly #line = new LiveLine();
  #timer: NodeJS.Timeout | undefined;
  #last: { atMs: number; link: number; nas: number } | undefined;
  #begun: { atMs: number; remaining: number } | undefined;
  #reported: { remaining: number; endsAtMs: number | undefined } | undefined;

  constructor(cluster: Cluster, name: { namespace: string; migration: string }) {
    this.#cluster = cluster;
    this.#name = name;
  }

  start(): void {
    this.#timer = setInterval(() => void this.#show().catch(() => undefined), PROGRESS_MS);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#line.end();
  }

  async #show(): Promise<void> {
    const [status, traffic, metrics] = await Promise.all([
      this.#cluster.migrationStatus(this.#name.namespace, this.#name.migration),
      this.#cluster.driver.traffic(),
      this.#cluster.driver.operatorMetrics(),
    ]);
    const nas = Object.values(traffic.nas).reduce((sum, { readBytes }) => sum + readBytes, 0);
    const now = { atMs: performance.now(), link: traffic.migrationBytes, nas };
    const before = this.#last ?? now;
    this.#last = now;
    const elapsedMs = now.atMs - this.#startedMs;
    const perSecond = (bytes: number): string =>
      `${mebibytes((bytes * 1000) / Math.max(1, now.atMs - before.atMs))}/s`;
    const parts = [`${status?.phase ?? 'Pending'} ${seconds(elapsedMs)}`];
    if (status?.migration?.phase !== undefined) parts.push(`KubeVirt: ${status.migration.phase}`);
    const running = runningFigures(metrics, this.#name);
    if (running !== undefined) {
      const { zero, reference, literalRaw, literalCompressed } = running.pages;
      const literal = `${literalCompressed} compressed, ${literalRaw} as they are`;
      parts.push(`pages: ${reference} from the NAS, ${literal}, ${zero} zero`);
    }
    parts.push(`link ${perSecond(now.link - before.link)}`, `NAS ${perSecond(now.nas - before.nas)}`);
    const leftMs = this.#leftMs(now.atMs, running?.remainingBytes ?? 0);
    if (leftMs !== undefined) parts.push(`about ${seconds(leftMs)} left`);
    this.#line.show(elapsedMs, parts.join(', '));
  }

  /** At the rate so far, which is not known at first; between two reports it counts down. */
  #leftMs(atMs: number, remaining: number): number | undefined {
    if (remaining === 0) return undefined;
    this.#begun ??= { atMs, remaining };
    if (remaining !== this.#reported?.remaining) {
      const done = this.#begun.remaining - remaining;
      const leftMs = (remaining * (atMs - this.#begun.atMs)) / done;
      this.#reported = { remaining, endsAtMs: done <= 0 ? undefined : atMs + leftMs };
    }
    const { endsAtMs } = this.#reported;
    return endsAtMs === undefined ? undefined : Math.max(0, endsAtMs - atMs);
  }
}

/** Waits for the end of a migration that was just applied, and gathers what was seen of it. */
async function follow(
  method: Method,
  lab: LabCluster,
  name: { namespace: string; migration: string },
  guest: Guest,
  learn: (known: KnownOfDemo) => void,
): Promise<Measured> {
  const cluster = new Cluster(lab);
  const line = new ProgressLine(cluster, name);
  line.start();
  const status = await cluster
    .waitForEnd(name.namespace, name.migration, TIMEOUT_MS)
    .finally(() => line.end());
  const gapMs = guest.longestGapMs;
  const libvirt = lab.handlers.resultOf(status.migration?.uid ?? '');
  if (method === 'NAS-aware') learn({ nasAwareMigration: outcomeOf(status) });
  const why = status.conditions?.find(({ type }) => type === 'Complete')?.message ?? 'no reason given';
  if (status.phase !== 'Succeeded' || libvirt === undefined)
    throw new Error(`the ${method} migration is ${status.phase}: ${why}`);
  const checked = await guest.check();
  learn({ guestSelfCheck: checked.selfCheck });
  say(`${status.phase} after ${seconds(libvirt.elapsedMs)}, guest self-check ${checked.selfCheck}; ${why}`);
  return {
    status,
    libvirt,
    recorded: lab.recording(status.migration?.uid ?? '').recorded,
    gapMs,
    guest: checked,
  };
}

/** The VM without a sidecar, moved by a NasAwareMigration that asks for no acceleration. */
async function runPlain(
  lab: LabCluster,
  options: DemoOptions,
  learn: (known: KnownOfDemo) => void,
): Promise<{ measured: Measured; memory: MemoryStatistics; qemu: string }> {
  console.log('\nPlain migration');
  const cluster = new Cluster(lab);
  const name = { namespace: PLAIN_NAMESPACE, migration: 'move-db-plainly' };
  await lab.createNamespace(PLAIN_NAMESPACE);
  say(`starting the ${options.guest} guest from its saved state`);
  const guest = await lab.createVm(vmOptions(PLAIN_NAMESPACE, options));
  for (const command of GUEST_PROFILES[options.guest].beforeMigration) await guest.command(command);
  guest.mark();
  await cluster.apply({
    apiVersion: 'nasmigration.io/v1alpha1',
    kind: 'NasAwareMigration',
    metadata: { namespace: name.namespace, name: name.migration },
    spec: { vmiName: VM, acceleration: 'Disabled' },
  });
  const measured = await follow('plain', lab, name, guest, learn);
  learn({ plain: { linkBytes: trafficOf(measured).link, ...timesOf(measured) } });
  say('counting pages of its memory that are on its disk');
  const home = await lab.homeOf(PLAIN_NAMESPACE, VM);
  const launcher = lab.launcherOf(PLAIN_NAMESPACE, home.metadata?.name ?? '');
  if (launcher === undefined) throw new Error('the pod of the VM does not run');
  const looked = await lookInto(
    launcher,
    lab.diskTemplateOf(options.guest),
    GUEST_PROFILES[options.guest].memoryMiB,
  );
  await lab.api.delete(resources.virtualMachineInstances, PLAIN_NAMESPACE, VM);
  await lab.waitForNoPods(PLAIN_NAMESPACE);
  learn({ qemu: looked.qemu });
  return { measured, ...looked };
}

/** Stops the guest, and compares its memory with its disk. */
async function lookInto(
  launcher: LauncherPod,
  diskTemplate: string,
  memoryMiB: number,
): Promise<{ memory: MemoryStatistics; qemu: string }> {
  const qmp = await QmpClient.connect(join(launcher.observerDirectory, 'qmp.sock'));
  const dump = join(launcher.observerDirectory, 'memory');
  try {
    const version = await qmp.execute('query-version');
    const { qemu } = z
      .object({ qemu: z.object({ major: z.number(), minor: z.number(), micro: z.number() }) })
      .parse(version);
    await qmp.execute('stop');
    const filename = join(POD_PATHS.observer, 'memory');
    await qmp.execute('pmemsave', { val: 0, size: memoryMiB * 2 ** 20, filename }, DUMP_TIMEOUT_MS);
    return {
      memory: await countPagesOnDisk(dump, diskTemplate),
      qemu: `${qemu.major}.${qemu.minor}.${qemu.micro}`,
    };
  } finally {
    qmp.close();
    await rm(dump, { force: true });
  }
}

interface Accelerated {
  readonly measured: Measured;
  readonly index: DemoRecord['index'];
  readonly cpuSeconds: { readonly source: number; readonly target: number };
  readonly uncachedReads: boolean;
  readonly resentPages: number;
}

/** File data written to the NAS since the lab began; while no migration is under way it is the guest's. */
async function writtenBytes(lab: LabCluster): Promise<number> {
  const { source, target } = await lab.lab.lab.nfsWrites();
  return source + target;
}

/** The VM under a policy, moved by the example of eight lines. */
async function runAccelerated(
  lab: LabCluster,
  options: DemoOptions,
  learn: (known: KnownOfDemo) => void,
): Promise<Accelerated> {
  console.log('\nNAS-aware migration');
  const cluster = new Cluster(lab);
  const { namespace, migration, label } = ACCELERATED;
  await lab.createNamespace(namespace);
  await cluster.applyExample('nas-migration-policy.yaml');
  say(
    `starting the ${options.guest} guest from its saved state; its pod gets a sidecar, which samples its disk`,
  );
  const before = await lab.traffic();
  const guest = await lab.createVm({ ...vmOptions(namespace, options), labels: label });
  await lab.waitForIndex(namespace, VM);
  const madeAtMs = performance.now();
  const sampled = await lab.traffic();
  const writtenBefore = await writtenBytes(lab);
  const home = await lab.homeOf(namespace, VM);
  const node = home.spec?.nodeName ?? '';
  const source = lab.containerOf(namespace, home.metadata?.name ?? '', SIDECAR_CONTAINER);
  if (source === undefined) throw new Error('the pod of the VM has no sidecar');
  for (const command of GUEST_PROFILES[options.guest].beforeMigration) await guest.command(command);
  const sourceCpu = await source.process.cgroup.cpuSeconds();
  const sampling = /"seconds":([\d.]+)[^\n]*"index sampled"/.exec(
    await readFile(source.process.logPath, 'utf8'),
  );
  const ageSeconds = (performance.now() - madeAtMs) / 1000;
  const guestBytesWrittenSince = (await writtenBytes(lab)) - writtenBefore;
  say('kubectl apply -f examples/nas-aware-migration.yaml');
  guest.mark();
  await cluster.applyExample('nas-aware-migration.yaml');
  const measured = await follow('NAS-aware', lab, { namespace, migration }, guest, learn);
  const target = lab.containerOf(namespace, measured.status.target?.pod ?? '', SIDECAR_CONTAINER);
  if (target === undefined) throw new Error('the target pod has no sidecar');
  const logs = await Promise.all([source, target].map(({ process }) => readFile(process.logPath, 'utf8')));
  return {
    measured,
    index: {
      kind: 'sampled',
      nasBytes: (sampled.nas[node]?.readBytes ?? 0) - (before.nas[node]?.readBytes ?? 0),
      seconds: Number(sampling?.[1] ?? 0),
      ageSeconds,
      guestBytesWrittenSince,
    },
    // The object's status counts batches; the sidecar says how many pages they were.
    resentPages: Number(
      /"resentPages":(\d+)[^\n]*"source pipeline closed"/.exec(logs[0] ?? '')?.[1] ?? Number.NaN,
    ),
    cpuSeconds: {
      source: (await source.process.cgroup.cpuSeconds()) - sourceCpu,
      target: await target.process.cgroup.cpuSeconds(),
    },
    uncachedReads: logs.every((log) => /"uncached":true[^\n]*"migration over"/.test(log)),
  };
}

function vmOptions(namespace: string, { guest, channels }: DemoOptions) {
  return { namespace, name: VM, guest, ...(channels > 1 ? {} : { cpuLimit: '1' }) };
}

const outcomeOf = ({ phase, result }: NasAwareMigrationStatus) => ({ phase, result });

/** By role in this migration, whichever nodes they were. */
function trafficOf({ recorded, status }: Measured) {
  const { migration, storage } = recorded.traffic;
  const from = status.source?.node === 'target' ? 'target' : 'source';
  const to = from === 'source' ? 'target' : 'source';
  return {
    link: from === 'source' ? migration.sourceToTarget : migration.targetToSource,
    sourceRead: storage[from].read,
    targetRead: storage[to].read,
    written: recorded.nfsWritten,
  };
}

const timesOf = ({ libvirt, gapMs }: Measured) => ({
  totalMs: Math.round(libvirt.elapsedMs),
  downtimeMs: libvirt.job?.downtimeMs ?? null,
  guestGapMs: gapMs ?? null,
});

/** The record of both, in the form that the data plane's demo has, with what the object's status says. */
function recordOf(
  options: DemoOptions,
  plain: Awaited<ReturnType<typeof runPlain>>,
  accelerated: Accelerated,
): DemoRecord & { nasAwareMigration: Pick<NasAwareMigrationStatus, 'phase' | 'result'> } {
  const { measured, index, cpuSeconds, uncachedReads, resentPages } = accelerated;
  const { status } = measured;
  const pages = status.result?.pages;
  const [plainUse, nasUse] = [trafficOf(plain.measured), trafficOf(measured)];
  const beyond = (key: 'sourceRead' | 'targetRead' | 'written'): number =>
    Math.max(0, nasUse[key] - plainUse[key]);
  const checks = [plain.measured.guest.selfCheck, measured.guest.selfCheck];
  return {
    guest: {
      profile: options.guest,
      memoryMiB: GUEST_PROFILES[options.guest].memoryMiB,
      nonZeroPages: plain.memory.nonZeroPages,
      pagesOnDisk: plain.memory.pagesOnDisk,
    },
    qemu: plain.qemu,
    channels: options.channels,
    linkMbit: options.link,
    nasMbit: options.nas,
    index,
    plain: { linkBytes: plainUse.link, ...timesOf(plain.measured) },
    nasAware: {
      linkBytes: nasUse.link,
      nasBytes: {
        sourceRead: beyond('sourceRead'),
        targetRead: beyond('targetRead'),
        written: beyond('written'),
      },
      ...timesOf(measured),
      pages: {
        zero: pages?.zero ?? 0,
        reference: pages?.reference ?? 0,
        literal: (pages?.literalRaw ?? 0) + (pages?.literalCompressed ?? 0),
      },
      resentPages,
      uncachedReads,
      sourceCpuSeconds: cpuSeconds.source,
      targetCpuSeconds: cpuSeconds.target,
    },
    identicalStreams: plain.measured.recorded.comparison.identical && measured.recorded.comparison.identical,
    guestSelfCheck: checks.find((check) => check !== 'ok') ?? 'ok',
    nasAwareMigration: outcomeOf(status),
  };
}

async function demo(options: DemoOptions): Promise<void> {
  const ends: (() => Promise<void>)[] = [];
  const differences: string[] = [];
  try {
    const record = await recordDemo(options, async (learn) => {
      say('starting two nodes, a NAS, kube-apiserver and etcd, and the operator');
      const lab = await LabCluster.start({
        ...{ linkMbit: options.link, nasMbit: options.nas, suite: options.qemu, record: true },
      });
      ends.push(() => lab.stop(options.logs === undefined ? {} : { keepLogsIn: options.logs }));
      await new Cluster(lab).apply({
        apiVersion: 'kubevirt.io/v1',
        kind: 'KubeVirt',
        metadata: { namespace: 'kubevirt', name: 'kubevirt' },
        spec: { configuration: { migrations: { maxDowntimeMs: options.downtime } } },
      });
      const plain = await runPlain(lab, options, learn);
      const accelerated = await runAccelerated(lab, options, learn);
      for (const one of [plain.measured, accelerated.measured])
        differences.push(...one.recorded.comparison.differences);
      return recordOf(options, plain, accelerated);
    });
    console.log(`\n${demoTable(record)}\n`);
    console.log(
      `NasAwareMigration: ${record.nasAwareMigration.phase}, streams identical: ${record.identicalStreams}, ` +
        `guest self-check: ${record.guestSelfCheck}; written to ${DEMO_FILE}`,
    );
    for (const difference of differences) console.error(`  ${difference}`);
    const isGood =
      record.identicalStreams === true &&
      record.guestSelfCheck === 'ok' &&
      record.nasAwareMigration.result?.accelerated === true;
    if (!isGood) process.exitCode = 1;
  } finally {
    for (const end of ends) await end();
  }
}

const options = readDemoOptions(Options, USAGE);
console.log(describeDemo(options));
try {
  await demo(options);
} catch (error) {
  console.error(`demo: ${(error as Error).message}`);
  process.exitCode = 1;
}
