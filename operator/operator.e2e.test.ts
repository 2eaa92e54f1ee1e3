// The operator on a real API server with exactly its own rights, and sidecars that speak the control protocol over real
// connections; KubeVirt and kubelet are played through the API, QEMU and its streams are not there.
import type { KubernetesObject, V1ConfigMap, V1MutatingWebhookConfiguration } from '@kubernetes/client-node';
import { pino } from 'pino';
import { describe, expect, it, vi } from 'vitest';
import { tell } from '../test/cluster/suite.ts';
import {
  eventually,
  isListening,
  type OperatorWorld,
  worldOfSuite,
} from '../test/control-plane/operator-world.ts';
import { isNotFound } from './kubernetes/api-client.ts';
import { resources } from './kubernetes/resources.ts';
import { hasSidecar } from './kubevirt/launcher-pod.ts';
import { Operator } from './operator.ts';

/** Within it the operator sees what was written, and would have acted on it. */
const SEEN_MS = 1000;
const pauseForCaches = () => new Promise((resolve) => setTimeout(resolve, SEEN_MS));

let world: OperatorWorld;

worldOfSuite((started) => {
  world = started;
});

describe('operator on a real API server', () => {
  it('injects a sidecar into pods that KubeVirt creates, and publishes its CA', async () => {
    const where = await world.shop();
    expect(hasSidecar(where.vm.pod)).toBe(true);
    await eventually(async () => {
      const map = await world.api.get<V1ConfigMap>(
        resources.configMaps,
        where.namespace,
        'nas-aware-migration-ca',
      );
      expect(map.data?.['ca.crt']).toBe(world.operator?.authorityPem);
    });
  });

  it('takes a migration from YAML to Succeeded, accelerated, with numbers', async (context) => {
    const where = await world.shop();
    const source = await world.sidecarOf(where.vm.pod);
    const startedAt = performance.now();
    await world.migrate(where);
    const vmim = await world.kubevirt.migrationOf(where.vm);
    // For the report, not asserted: the machine may be busy.
    tell(context, { migrationCreatedAfterMs: Math.round(performance.now() - startedAt) });
    const targetPod = await world.kubevirt.handOff(where.vm, vmim, 'node-2');
    const target = await world.sidecarOf(targetPod);
    await world.stream(source, target);
    await world.kubevirt.phase(vmim, 'Running');
    const running = await world.waitForPhase(where, 'Migrating');
    expect(running.conditions).toContainEqual(
      expect.objectContaining({ type: 'Accelerated', status: 'True' }),
    );
    source.finish();
    target.finish();
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    const status = await world.waitForPhase(where, 'Succeeded');
    expect(status).toMatchObject({
      source: { node: 'node-1', pod: where.vm.pod.metadata?.name },
      target: { node: 'node-2', pod: targetPod.metadata?.name },
      result: { accelerated: true, attempt: 'Accelerated', savedPercent: 95 },
    });
    await eventually(() => {
      expect(source.received.map(({ type }) => type)).toEqual(['welcome', 'arm', 'go', 'recorded']);
      expect(target.received.map(({ type }) => type)).toEqual(['welcome', 'arm', 'recorded']);
    });
  });

  it.each([
    ['PostCopyAllowed', { allowPostCopy: true }],
    ['CompressionOn', { experimental: { compression: 'zstd' } }],
  ])('migrates plainly, and says why, with %s', async (reason, configuration) => {
    const where = await world.shop();
    const source = await world.sidecarOf(where.vm.pod);
    await world.migrate(where);
    const vmim = await world.kubevirt.migrationOf(where.vm);
    const targetPod = await world.kubevirt.handOff(where.vm, vmim, 'node-2', configuration);
    await eventually(async () => {
      const { conditions } = await world.statusOf(where);
      expect(conditions).toContainEqual(
        expect.objectContaining({ type: 'Accelerated', status: 'False', reason }),
      );
    });
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    const status = await world.waitForPhase(where, 'Succeeded');
    expect(status.result).toMatchObject({ accelerated: false, attempt: 'Plain', reason });
    expect(source.received.map(({ type }) => type)).toEqual(['welcome']);
  });

  it('gives the source its socket back when the target cannot', async () => {
    const where = await world.shop();
    const { source, vmim, targetPod } = await world.handedOver(where);
    await world.sidecarOf(targetPod, { declines: 'SocketNotTaken' });
    await eventually(() => expect(source.state).toMatchObject({ phase: 'raw', reason: 'PeerRaw' }));
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await world.waitForPhase(where, 'Succeeded')).result).toMatchObject({
      attempt: 'Plain',
      reason: 'SocketNotTaken',
    });
  });

  it('refuses with Required what cannot be accelerated, before anything moved', async () => {
    const where = await world.shop();
    await world.migrate(where, { acceleration: 'Required', prepareTimeout: '1s' });
    const status = await world.waitForPhase(where, 'Failed');
    expect(status.result).toMatchObject({ accelerated: false, reason: 'HubUnreachable' });
    const { items } = await world.api.list(resources.virtualMachineInstanceMigrations, where.namespace);
    expect(items).toEqual([]);
  });

  it('tells in the status of a policy what it applies to', async () => {
    const where = await world.shop();
    await eventually(async () => {
      const policy = await world.api.get<{ status?: object } & KubernetesObject>(
        resources.nasMigrationPolicies,
        undefined,
        where.namespace,
      );
      expect(policy.status).toMatchObject({
        selectedVirtualMachineInstances: 1,
        conditions: expect.arrayContaining([expect.objectContaining({ type: 'Ready', status: 'True' })]),
      });
    });
  });

  it('moves plainly under a policy that is suspended', async () => {
    const where = await world.shop();
    await world.policy(where.namespace, { suspend: true });
    const { vmim, targetPod } = await world.handedOver(where);
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await world.waitForPhase(where, 'Succeeded')).result).toMatchObject({
      attempt: 'Plain',
      reason: 'Suspended',
    });
  });

  it('records with Observe what would have been saved', async () => {
    const where = await world.shop();
    const { source, target, vmim, targetPod } = await world.streaming(where, { acceleration: 'Observe' });
    expect(source.received).toContainEqual(expect.objectContaining({ type: 'arm', mode: 'observe' }));
    source.finish({ outcome: 'observed' });
    target.finish({ outcome: 'observed' });
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    const { result } = await world.waitForPhase(where, 'Succeeded');
    expect(result).toMatchObject({
      accelerated: false,
      attempt: 'Observed',
      reason: 'Observing',
      savedPercent: 95,
    });
  });

  it('refuses a VM that is not there', async () => {
    const where = await world.shop();
    await world.migrate(where, { vmiName: 'nobody' });
    const { conditions } = await world.waitForPhase(where, 'Failed');
    expect(conditions).toContainEqual(
      expect.objectContaining({ type: 'Complete', reason: 'VirtualMachineInstanceNotFound' }),
    );
  });

  it('adopts and accelerates a migration that a drain started', async () => {
    const where = await world.shop();
    const source = await world.sidecarOf(where.vm.pod);
    const vmim = await world.kubevirt.evict(where.vm);
    const name = vmim.metadata?.name ?? '';
    await world.waitForPhase(where, 'Preparing', name);
    const targetPod = await world.kubevirt.handOff(where.vm, vmim, 'node-2');
    const target = await world.sidecarOf(targetPod);
    await world.stream(source, target);
    source.finish();
    target.finish();
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await world.waitForPhase(where, 'Succeeded', name)).result).toMatchObject({ accelerated: true });
  });

  it('records a migration whose name somebody gave to an object of their own', async () => {
    const where = await world.shop();
    await world.migrate(where, { vmiName: 'nobody' }, 'kubevirt-evacuation-db');
    await world.waitForPhase(where, 'Failed', 'kubevirt-evacuation-db');
    const vmim = await world.kubevirt.evict(where.vm);
    const record = `kubevirt-evacuation-db-${vmim.metadata?.uid?.slice(0, 8)}`;
    expect((await world.waitForPhase(where, 'Preparing', record)).migration?.uid).toBe(vmim.metadata?.uid);
  });

  it('adopts a migration that becomes adoptable while it runs, but not again when its record was deleted', async () => {
    const where = await world.shop();
    await world.policy(where.namespace, { adoption: 'Disabled' });
    const vmim = await world.kubevirt.evict(where.vm);
    const name = vmim.metadata?.name ?? '';
    await pauseForCaches();
    await expect(world.statusOf(where, name)).rejects.toSatisfy(isNotFound);
    await world.policy(where.namespace, { adoption: 'Enabled' });
    await world.waitForPhase(where, 'Preparing', name);
    await world.api.delete(resources.nasAwareMigrations, where.namespace, name);
    await eventually(() => expect(world.statusOf(where, name)).rejects.toSatisfy(isNotFound));
    // Something that decides over adoption changes once more.
    await world.policy(where.namespace, { adoption: 'Enabled', suspend: true });
    await pauseForCaches();
    await expect(world.statusOf(where, name)).rejects.toSatisfy(isNotFound);
  });

  it('cancels the migration when its object is deleted', async () => {
    const where = await world.shop();
    await world.sidecarOf(where.vm.pod);
    await world.migrate(where);
    const vmim = await world.kubevirt.migrationOf(where.vm);
    await world.waitForPhase(where, 'Preparing');
    await world.api.delete(resources.nasAwareMigrations, where.namespace, 'move-db');
    await eventually(async () => {
      await expect(
        world.api.get(resources.virtualMachineInstanceMigrations, where.namespace, vmim.metadata?.name ?? ''),
      ).rejects.toSatisfy(isNotFound);
      await expect(world.statusOf(where)).rejects.toSatisfy(isNotFound);
    });
  });

  it('opens the breaker after a failed armed attempt, so that the next one is plain', async () => {
    const where = await world.shop();
    const { source, target, vmim, targetPod } = await world.streaming(where);
    source.finish({ outcome: 'failed', reason: 'InternalError' });
    target.finish({ outcome: 'failed', reason: 'InternalError' });
    await world.kubevirt.fail(where.vm, vmim, targetPod, 'connection lost');
    expect((await world.waitForPhase(where, 'Failed')).result).toMatchObject({ attempt: 'FailedWhileArmed' });
    await world.migrate(where, {}, 'again');
    await world.waitForPhase(where, 'Preparing', 'again');
    const { conditions } = await world.statusOf(where, 'again');
    expect(conditions).toContainEqual(
      expect.objectContaining({ type: 'Accelerated', status: 'False', reason: 'BreakerOpen' }),
    );
  });

  it('arms anew with a higher epoch when the operator is restarted before GO', async () => {
    const where = await world.shop();
    const { source, vmim, targetPod } = await world.handedOver(where);
    await eventually(() => expect(source.state.phase).toBe('armed'));
    const before = source.client.highestEpoch;
    await world.operator?.stop();
    await source.stop();
    await world.startOperator();
    const again = await world.sidecarOf(where.vm.pod);
    const target = await world.sidecarOf(targetPod);
    await world.stream(again, target);
    expect(again.client.highestEpoch).toBeGreaterThan(before);
    again.finish();
    target.finish();
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await world.waitForPhase(where, 'Succeeded')).result).toMatchObject({ accelerated: true });
  });

  it('lets go of a source that holds for its GO when it stops, and the next leader records why', async () => {
    const where = await world.shop();
    const { source, vmim, targetPod } = await world.handedOver(where);
    await eventually(() => expect(source.state.phase).toBe('armed'));
    source.connect();
    expect(source.state.phase).toBe('holding');
    // The hub has heard of it, and the two seconds that a GO may take are far from over.
    await new Promise((resolve) => setTimeout(resolve, 500));
    await world.operator?.stop();
    await eventually(() => expect(source.rawReason).toBe('OperatorStopping'));
    await world.startOperator();
    // On a busy machine its next try comes later than the operator waits for a result.
    await eventually(() => expect(source.client.connected).toBe(true));
    source.finish();
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await world.waitForPhase(where, 'Succeeded', 'move-db', 40_000)).result).toMatchObject({
      ...{ accelerated: false, attempt: 'Plain', reason: 'OperatorStopping' },
    });
  });

  it('answers the webhook for a while after it was told to stop, and is not ready any more', async () => {
    const { webhookPort = 0, metricsPort = 0 } = world.operator ?? {};
    const readiness = async () => (await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).status;
    expect([await readiness(), await isListening(webhookPort)]).toEqual([200, true]);
    const stopped = world.operator?.stop({ lingerMs: 2000 });
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect([await readiness(), await isListening(webhookPort)]).toEqual([503, true]);
    await stopped;
    expect(await isListening(webhookPort)).toBe(false);
    await world.startOperator();
  });

  it('takes the webhook out of the cluster when injection is off', async () => {
    const webhooks = async () => {
      const found = await world.api.get<V1MutatingWebhookConfiguration>(
        resources.mutatingWebhooks,
        undefined,
        'nas-aware-migration',
      );
      return found.webhooks?.length ?? 0;
    };
    expect(await webhooks()).toBe(1);
    await world.operator?.stop();
    expect(await webhooks()).toBe(1);
    const without = await Operator.start(
      world.operatorConfig,
      { ...world.settings, injection: false },
      pino({ level: world.settings.logLevel }),
    );
    try {
      await eventually(async () => expect(await webhooks()).toBe(0));
    } finally {
      await without.stop();
      await world.startOperator();
    }
    await eventually(async () => expect(await webhooks()).toBe(1));
  });

  it('goes on through a restart of the API server in mid-migration', async () => {
    const where = await world.shop();
    const { source, target, vmim, targetPod } = await world.streaming(where);
    await world.plane.restartApiServer('SIGKILL');
    source.finish();
    target.finish();
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    expect((await world.waitForPhase(where, 'Succeeded')).result).toMatchObject({ accelerated: true });
  });

  it('lets a second replica take over, and never has two leaders', async () => {
    const second = await Operator.start(
      world.operatorConfig,
      world.settings,
      pino({ level: world.settings.logLevel }),
    );
    try {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      expect([world.operator, second].filter((one) => one?.hubPort !== undefined)).toHaveLength(1);
      const where = await world.shop();
      await world.operator?.stop();
      world.operator = second;
      await vi.waitFor(() => expect(second.hubPort).toBeDefined(), { timeout: 10_000, interval: 20 });
      const { source, target, vmim, targetPod } = await world.streaming(where);
      source.finish();
      target.finish();
      await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
      expect((await world.waitForPhase(where, 'Succeeded')).result).toMatchObject({ accelerated: true });
    } catch (error) {
      if (world.operator !== second) await second.stop();
      throw error;
    }
  });

  it('asks the API server for at most 30 things in a migration', async () => {
    const where = await world.shop();
    const source = await world.sidecarOf(where.vm.pod);
    // The lease is renewed with or without a migration.
    const count = async () => {
      const metric = await world.operator?.metrics.registry
        .getSingleMetric('nasmig_api_requests_total')
        ?.get();
      const counted = metric?.values.filter(({ labels }) => labels['resource'] !== 'leases') ?? [];
      return counted.reduce((sum, { value }) => sum + value, 0);
    };
    await new Promise((resolve) => setTimeout(resolve, 500));
    const before = await count();
    await world.migrate(where);
    const vmim = await world.kubevirt.migrationOf(where.vm);
    const targetPod = await world.kubevirt.handOff(where.vm, vmim, 'node-2');
    const target = await world.sidecarOf(targetPod);
    await world.stream(source, target);
    await world.kubevirt.phase(vmim, 'Running');
    source.finish();
    target.finish();
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    await world.waitForPhase(where, 'Succeeded');
    const requests = (await count()) - before;
    expect(requests).toBeGreaterThan(5);
    expect(requests).toBeLessThanOrEqual(30);
  });

  it('refuses a token for another audience, one that is bound to no launcher pod, and a name that is not the token’s', async () => {
    const where = await world.shop();
    const other = await world.shop();
    const refused = async (options: Parameters<OperatorWorld['dial']>[0]) => {
      const sidecar = await world.dial(options);
      await eventually(() => expect(sidecar.problems.length).toBeGreaterThan(0));
      expect(sidecar.client.connected).toBe(false);
      return sidecar.problems[0];
    };
    expect(
      await refused({ pod: where.vm.pod, audience: 'https://kubernetes.default.svc.cluster.local' }),
    ).toContain('401');
    expect(await refused({ pod: where.vm.pod, claims: other.vm.pod })).toContain('another pod');
  });

  it('gives no key to a pod that is not of the VM, whatever its token says', async () => {
    const where = await world.shop();
    const { source, targetPod } = await world.handedOver(where);
    // KubeVirt takes the pod out of activePods: from here on it is nobody's.
    await world.api.mergePatch(resources.virtualMachineInstances, where.namespace, 'db', {
      status: { activePods: { [targetPod.metadata?.uid ?? '']: null } },
    });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const stranger = await world.sidecarOf(targetPod);
    await eventually(() => expect(source.state.phase).toBe('armed'));
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(stranger.received.map(({ type }) => type)).toEqual(['welcome']);
  });
});
