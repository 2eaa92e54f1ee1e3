// What a NasMigrationPolicy says reaches the sidecars of its VMs: in the container that is injected, over the hub, again when the
// policy changes, and with each migration; and what an observed migration would have saved comes back into the object.
import type { V1Pod } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import { exampleResult } from '../../control/example-messages.ts';
import { SIDECAR_CONTAINER } from '../../operator/kubevirt/launcher-pod.ts';
import { eventually, type OperatorWorld, worldOfSuite } from './operator-world.ts';

let world: OperatorWorld;

worldOfSuite((started) => {
  world = started;
});

/** Of the injected container. */
function environmentOf(pod: V1Pod): Record<string, string | undefined> {
  const container = pod.spec?.initContainers?.find(({ name }) => name === SIDECAR_CONTAINER);
  return Object.fromEntries((container?.env ?? []).map(({ name, value }) => [name, value]));
}

describe('index.build and index.nasReadBandwidth', () => {
  it('are in the container, are told over the hub, and are told anew when the policy changes', async () => {
    const namespace = 'indexed';
    await world.kubevirt.namespace(namespace);
    await world.policy(namespace, { index: { build: 'Full', nasReadBandwidth: '50M', memory: '128Mi' } });
    const { pod } = await world.kubevirt.vm(namespace, 'db', 'node-1');
    expect(environmentOf(pod)).toMatchObject({
      NASMIG_INDEX_BUILD: 'full',
      NASMIG_INDEX_BYTES_PER_SECOND: '50000000',
      NASMIG_INDEX_MEMORY_BYTES: String(128 * 2 ** 20),
    });
    const sidecar = await world.sidecarOf(pod, { hello: { accepts: ['configure'] } });
    const told = () => sidecar.received.filter(({ type }) => type === 'configure');
    await eventually(() =>
      expect(told()).toEqual([
        { type: 'configure', index: { build: 'full', nasReadBytesPerSecond: 50_000_000 } },
      ]),
    );
    await world.policy(namespace, { index: { build: 'Inherit' } });
    await eventually(() => expect(told().at(-1)).toEqual({ type: 'configure', index: { build: 'inherit' } }));
    expect(told()).toHaveLength(2);
  });

  it('are kept from a sidecar of an earlier release, which would not understand', async () => {
    const shop = await world.shop();
    const sidecar = await world.sidecarOf(shop.vm.pod);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(sidecar.received.map(({ type }) => type)).toEqual(['welcome']);
    expect(sidecar.client.connected).toBe(true);
  });
});

describe('limits', () => {
  it('of object and policy go to both sidecars, the lower of each', async () => {
    const shop = await world.shop();
    await world.policy(shop.namespace, {
      defaults: { limits: { linkBandwidth: '100M', nasReadBandwidth: '300M' } },
    });
    const source = await world.sidecarOf(shop.vm.pod);
    await world.migrate(shop, { limits: { linkBandwidth: '1G', nasReadBandwidth: '200M' } });
    const vmim = await world.kubevirt.migrationOf(shop.vm);
    const target = await world.sidecarOf(await world.kubevirt.handOff(shop.vm, vmim, 'node-2'));
    for (const sidecar of [source, target])
      await eventually(() =>
        expect(sidecar.received).toContainEqual(
          expect.objectContaining({
            type: 'arm',
            limits: { linkBytesPerSecond: 100_000_000, nasReadBytesPerSecond: 200_000_000 },
          }),
        ),
      );
  });
});

describe('Observe as the default of a policy', () => {
  it('arms to observe, and says in the object what would have been saved, and that nothing was', async () => {
    const shop = await world.shop();
    await world.policy(shop.namespace, { defaults: { acceleration: 'Observe' } });
    const { source, target, vmim, targetPod } = await world.streaming(shop);
    expect(source.received).toContainEqual(expect.objectContaining({ type: 'arm', mode: 'observe' }));
    const plain = { linkBytes: 757_000_000, plainLinkBytes: 757_000_000, nasBytes: 0 };
    const estimate = {
      linkBytes: 75_700_000,
      nasBytes: 600_000_000,
      pages: exampleResult.pages,
      hitsCountedTimes: 8,
    };
    source.finish({ ...plain, outcome: 'observed', estimate });
    target.finish({ ...plain, outcome: 'observed' });
    await world.kubevirt.succeed(shop.vm, vmim, targetPod, 'node-2');
    const { result, acceleration } = await world.waitForPhase(shop, 'Succeeded');
    expect(acceleration).toBe('Observe');
    expect(result).toMatchObject({
      accelerated: false,
      attempt: 'Observed',
      savedBytes: 0,
      savedPercent: 0,
      estimate: { ...estimate, savedBytes: 681_300_000, savedPercent: 90 },
    });
  });
});

describe('selectors', () => {
  it('with keys of any length are refused', async () => {
    const spec = (key: string) => ({ selectors: { virtualMachineInstanceSelector: { [key]: 'x' } } });
    await world.policy('long-keys', spec(`${'a'.repeat(253)}/${'b'.repeat(63)}`));
    await expect(world.policy('long-keys', spec('a'.repeat(318)))).rejects.toThrow(
      'a label key has at most 317 characters',
    );
  });
});
