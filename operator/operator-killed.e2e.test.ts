// Crash-only: the operator, as its own process, is killed at every step of a migration and started again. Whatever it was at, the
// job is finished, nothing is made twice, and an armed stream that had its GO does not even notice.
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { OperatorWorld } from '../test/control-plane/operator-world.ts';
import { resources } from './kubernetes/resources.ts';
import { hasSidecar } from './kubevirt/launcher-pod.ts';

let world: OperatorWorld;

beforeAll(async () => {
  world = await OperatorWorld.start();
  world.spawnOperator();
  await world.operatorReady();
}, 180_000);

afterEach(() => world.stopSidecars());

afterAll(() => world?.stop());

const steps = ['created', 'pending', 'handed-off', 'armed', 'framed', 'running', 'succeeded'] as const;
type Step = (typeof steps)[number];

describe('an operator that is killed', () => {
  it.each(steps)(
    'when a migration is %s still brings it to its end',
    async (victim) => {
      const at = async (step: Step) => {
        if (step !== victim) return;
        await world.killOperator('SIGKILL');
        world.spawnOperator();
      };
      const where = await world.shop();
      const source = await world.sidecarOf(where.vm.pod);
      await world.migrate(where);
      await at('created');
      const vmim = await world.kubevirt.migrationOf(where.vm, 30_000);
      await at('pending');
      // Without us the webhook does not answer, and a pod that is made then has no sidecar: that is the next test.
      await world.operatorReady();
      const targetPod = await world.kubevirt.handOff(where.vm, vmim, 'node-2');
      await at('handed-off');
      const target = await world.sidecarOf(targetPod);
      await vi.waitFor(() => expect([source.state.phase, target.state.phase]).toEqual(['armed', 'armed']), {
        timeout: 30_000,
        interval: 10,
      });
      if (victim === 'armed') {
        // Armed again by the next leader, under its own key.
        const epoch = source.client.highestEpoch;
        await at('armed');
        await vi.waitFor(() => expect(source.client.highestEpoch).toBeGreaterThan(epoch), {
          timeout: 30_000,
          interval: 10,
        });
        await vi.waitFor(() => expect(target.client.highestEpoch).toBeGreaterThan(epoch), {
          timeout: 30_000,
          interval: 10,
        });
      }
      await world.stream(source, target);
      await at('framed');
      await world.kubevirt.phase(vmim, 'Running');
      await at('running');
      source.finish();
      target.finish();
      await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
      await at('succeeded');
      const status = await world.waitForPhase(where, 'Succeeded', 'move-db', 40_000);
      expect(status.result).toMatchObject({ accelerated: true, attempt: 'Accelerated', savedPercent: 95 });
      const { items } = await world.api.list(resources.virtualMachineInstanceMigrations, where.namespace);
      expect(items).toHaveLength(1);
    },
    120_000,
  );

  it('while a target pod is made leaves that migration plain, and says so', async () => {
    const where = await world.shop();
    const source = await world.sidecarOf(where.vm.pod);
    await world.migrate(where);
    const vmim = await world.kubevirt.migrationOf(where.vm, 30_000);
    await world.killOperator('SIGKILL');
    const targetPod = await world.kubevirt.handOff(where.vm, vmim, 'node-2');
    expect(hasSidecar(targetPod)).toBe(false);
    world.spawnOperator();
    await world.operatorReady();
    await world.kubevirt.succeed(where.vm, vmim, targetPod, 'node-2');
    const status = await world.waitForPhase(where, 'Succeeded', 'move-db', 40_000);
    expect(status.result).toMatchObject({ accelerated: false, attempt: 'Plain', reason: 'NoSidecar' });
    expect(source.framed).toBe(false);
  }, 120_000);
});
