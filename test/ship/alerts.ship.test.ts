// Every alert fires while what it speaks of happens: a real Prometheus scrapes a real operator process and a real kube-apiserver,
// sidecars are real connections to the hub, and each test causes one thing. The rules are the shipped ones with every duration
// divided by 120 (an hour is 30 s); that the real durations are right is shown by promtool in rules.ship.test.ts.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { load } from 'js-yaml';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { exampleHello, exampleProgress } from '../../control/example-messages.ts';
import { freePort } from '../../hack/control-plane/free-ports.ts';
import { alertRules } from '../../observability/rules/alerts.ts';
import { scaledTime } from '../../observability/rules/rule.ts';
import { ruleFile } from '../../observability/rules/rule-file.ts';
import { issueServing } from '../../operator/certificates/authority.ts';
import { createAuthority } from '../../operator/certificates/x509.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import type { FakeSidecar } from '../control-plane/fake-sidecar.ts';
import { OperatorWorld, type Shop } from '../control-plane/operator-world.ts';
import { type FiringAlert, Prometheus } from './prometheus.ts';
import { record } from './report.ts';

const TIME_DIVISOR = 120;
/** Two scrapes, so that there is a difference. */
const SHORTEST_RANGE_MS = 2000;
const FIRING_TIMEOUT_MS = 90_000;
/** Longer than 15 minutes of the rules. */
const QUIET_MS = 10_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const EIGHT_DAYS_SECONDS = 8 * 86_400;

let world: OperatorWorld;
let prometheus: Prometheus;
let certificates: string;
const fired = new Set<string>();

// Two alerts in one case, on a machine that is busy with other things.
vi.setConfig({ testTimeout: 3 * FIRING_TIMEOUT_MS });

beforeAll(async () => {
  const metricsPort = await freePort();
  certificates = await mkdtemp(path.join(tmpdir(), 'nasmig-webhook-certificate-'));
  world = await OperatorWorld.start({
    NASMIG_METRICS_PORT: String(metricsPort),
    NASMIG_NAS_READ_PERMITS: '1',
  });
  prometheus = await Prometheus.start({
    rules: ruleFile(scaledTime(TIME_DIVISOR, SHORTEST_RANGE_MS)),
    targets: [
      { job: 'operator', ports: [metricsPort] },
      { job: 'apiserver', ports: [], more: await apiServerTarget() },
    ],
  });
  world.spawnOperator();
  await world.operatorReady();
});

afterAll(async () => {
  await record('prometheus', { alerts: alertRules.length, alertsFired: fired.size });
  await prometheus?.stop();
  await world?.stop();
  if (certificates !== undefined) await rm(certificates, { recursive: true, force: true });
});

/** As a Prometheus in the cluster is configured for it, with the administrator's token. */
async function apiServerTarget(): Promise<object> {
  const kubeconfig = load(await readFile(world.plane.kubeconfig, 'utf8')) as {
    clusters: { cluster: { server: string } }[];
    users: { user: { token: string } }[];
  };
  return {
    scheme: 'https',
    tls_config: { insecure_skip_verify: true },
    authorization: { credentials: kubeconfig.users[0]?.user.token },
    static_configs: [{ targets: [new URL(kubeconfig.clusters[0]?.cluster.server ?? '').host] }],
    metric_relabel_configs: [
      { source_labels: ['__name__'], regex: 'apiserver_admission_webhook_.*', action: 'keep' },
    ],
  };
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function isFiring(name: string): Promise<FiringAlert | undefined> {
  return (await prometheus.firing()).find(({ labels }) => labels['alertname'] === name);
}

/** Not firing, then `cause`, then firing. What it says is complete. */
async function fires(name: string, cause: () => Promise<unknown>): Promise<FiringAlert> {
  await until(name, async () => {
    if ((await isFiring(name)) !== undefined) throw new Error(`${name} fires before anything happened`);
  });
  await cause();
  const alert = await until(name, async () => {
    const found = await isFiring(name);
    if (found === undefined) throw new Error(`${name} does not fire`);
    return found;
  });
  expect(alert.annotations['description']).not.toMatch(/<no value>|error|\{\{/);
  expect(alert.annotations['runbook_url']).toBe(`docs/runbooks/${name}.md`);
  fired.add(name);
  return alert;
}

async function until<T>(what: string, check: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + FIRING_TIMEOUT_MS;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > deadline) {
        const pending = await prometheus.query(`ALERTS{alertname="${what}"}`);
        throw new Error(`${(error as Error).message}; ALERTS: ${JSON.stringify(pending)}`);
      }
      await sleep(250);
    }
  }
}

interface Running {
  shop: Shop;
  source: FakeSidecar;
  target: FakeSidecar;
  succeed: () => Promise<unknown>;
  fail: () => Promise<unknown>;
}

/** A migration in the middle of its stream. */
async function streaming(): Promise<Running> {
  const shop = await world.shop();
  const { source, target, vmim, targetPod } = await world.streaming(shop);
  return {
    ...{ shop, source, target },
    succeed: async () => {
      await world.kubevirt.succeed(shop.vm, vmim, targetPod, 'node-2');
      return world.waitForPhase(shop, 'Succeeded');
    },
    fail: async () => {
      await world.kubevirt.fail(shop.vm, vmim, targetPod, 'the lab says so');
      return world.waitForPhase(shop, 'Failed');
    },
  };
}

function progress({ source }: Running, sequence: number, qemuBytes: number): void {
  if (!('order' in source.state)) throw new Error('no migration');
  const { migrationUid, epoch } = source.state.order;
  source.client.send({ ...exampleProgress, migrationUid, epoch, sequence, qemuBytes });
}

/** To its end as an accelerated one, with these numbers. */
async function finish(running: Running, change: Parameters<FakeSidecar['finish']>[0] = {}): Promise<void> {
  running.source.finish(change);
  running.target.finish(change);
  await running.succeed();
}

describe('alerts', () => {
  it('none fires while everything is well', async () => {
    await finish(await streaming());
    // With times this short, a few scrapes that a busy machine has missed are an operator that is down: then it is waited again.
    await until('', async () => {
      const quietUntil = performance.now() + QUIET_MS;
      while (performance.now() < quietUntil) {
        const alerts = (await prometheus.firing()).map(({ labels }) => labels['alertname']);
        if (alerts.length > 0) throw new Error(`${alerts.join(', ')} fires while everything is well`);
        await sleep(250);
      }
    });
    const [leader] = await prometheus.query('nasmig_leader');
    expect(leader?.values[0]?.[1]).toBe(1);
  });

  it('NasMigrationIndexStale: a sidecar whose index is eight days old', async () => {
    const { vm } = await world.shop();
    const index = { ...exampleHello.index, ageSeconds: EIGHT_DAYS_SECONDS };
    const sidecars: FakeSidecar[] = [];
    const alert = await fires('NasMigrationIndexStale', async () =>
      sidecars.push(await world.sidecarOf(vm.pod, { hello: { index } })),
    );
    expect(alert.labels['node']).toBe('node-1');
    expect(alert.annotations['description']).toContain('node-1');
    await Promise.all(sidecars.map((sidecar) => sidecar.stop()));
  });

  it('NasMigrationStuck and NasMigrationNasBudgetExhausted: a stream that stands still, and one that waits for it', async () => {
    const stuck = await streaming();
    const alert = await fires('NasMigrationStuck', async () => progress(stuck, 1, 1_000_000));
    expect(alert.labels).toMatchObject({ namespace: stuck.shop.namespace, name: 'move-db', vmi: 'db' });
    // It goes on: the alert ends.
    await until('NasMigrationStuck', async () => {
      progress(stuck, 2 + Math.floor(performance.now()), 1_000_000 + Math.floor(performance.now()));
      if ((await isFiring('NasMigrationStuck')) !== undefined) throw new Error('still firing');
    });
    const waiting = await world.shop();
    await fires('NasMigrationNasBudgetExhausted', async () => {
      await world.sidecarOf(waiting.vm.pod);
      // KubeVirt is not even asked before a permit is free.
      await world.migrate(waiting);
    });
    await world.api.delete(resources.nasAwareMigrations, waiting.namespace, 'move-db');
    await finish(stuck);
  });

  it('NasMigrationResendsHigh: a migration whose index was wrong', async () => {
    await fires('NasMigrationResendsHigh', async () => {
      const running = await streaming();
      await finish(running, { resends: 300 });
    });
  });

  it('NasMigrationInjectionStopped: a quota that refuses a pod with a sidecar', async () => {
    await fires('NasMigrationInjectionStopped', async () => {
      const shop = await world.shop();
      const vmim = await world.kubevirt.evict(shop.vm);
      await world.kubevirt.phase(vmim, 'Pending', {
        conditions: [
          {
            type: 'migrationRejectedByResourceQuota',
            status: 'True',
            message: 'pods is forbidden: exceeded quota: small',
          },
        ],
      });
    });
  });

  it('NasMigrationSidecarsRefused: a sidecar with a token for somebody else', async () => {
    const alert = await fires('NasMigrationSidecarsRefused', async () => {
      const { vm } = await world.shop();
      await world.dial({ pod: vm.pod, audience: 'https://kubernetes.default.svc' });
    });
    expect(alert.labels['reason']).toBe('token');
    await world.stopSidecars();
  });

  it('NasMigrationAccelerationFailing, then NasMigrationBreakerOpen: armed migrations that fail', async () => {
    await fires('NasMigrationAccelerationFailing', async () => (await streaming()).fail());
    await fires('NasMigrationBreakerOpen', async () => {
      await (await streaming()).fail();
      await (await streaming()).fail();
    });
  });

  it('NasMigrationFallbacksRising: migrations that the breaker makes plain', async () => {
    await fires('NasMigrationFallbacksRising', async () => {
      for (let count = 0; count < 4; count += 1) {
        const shop = await world.shop();
        const { vmim, targetPod } = await world.handedOver(shop);
        await world.sidecarOf(targetPod);
        await world.kubevirt.succeed(shop.vm, vmim, targetPod, 'node-2');
        const { result } = await world.waitForPhase(shop, 'Succeeded');
        expect(result).toMatchObject({ attempt: 'Plain', reason: 'ClusterBreakerOpen' });
      }
    });
  });

  it('NasMigrationWebhookDown: the API server cannot reach it; NasMigrationCertificateExpiring: its certificate is not renewed', async () => {
    await world.stopSidecars();
    await world.killOperator('SIGTERM');
    // cert-manager's files, forgotten: half a day is left.
    const authority = createAuthority('ca', new Date(Date.now() - 8 * DAY_MS), new Date(Date.now() + DAY_MS));
    const { certificatePem, keyPem } = issueServing(authority, ['127.0.0.1'], Date.now() - 6.5 * DAY_MS);
    await writeFile(path.join(certificates, 'tls.crt'), certificatePem);
    await writeFile(path.join(certificates, 'tls.key'), keyPem);
    await writeFile(path.join(certificates, 'ca.crt'), authority.certificatePem);
    // Nobody listens there.
    const nowhere = await freePort();
    world.spawnOperator({
      NASMIG_WEBHOOK_CERTIFICATE_DIR: certificates,
      NASMIG_WEBHOOK_URL: `https://127.0.0.1:${nowhere}`,
    });
    await world.operatorReady();
    const alert = await fires('NasMigrationCertificateExpiring', async () => {});
    expect(alert.annotations['description']).toMatch(/ends in 1[12]h/);
    await fires('NasMigrationWebhookDown', async () => {
      // A series begins with its first event at 1, so it takes some.
      for (let count = 0; count < 5; count += 1) {
        await world.shop();
        await sleep(1000);
      }
    });
  });

  it('NasMigrationOperatorDown: no operator', async () => {
    await fires('NasMigrationOperatorDown', () => world.killOperator());
  });

  it('all have fired', () => {
    expect([...fired].sort()).toEqual(alertRules.map(({ alert }) => alert).sort());
  });
});
