import type { V1Pod } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import type { KubevirtObject } from '../controller/caches.ts';
import { InjectionStops, STOP_MS, UNSCHEDULABLE_GRACE_MS } from './injection-stops.ts';

function stops(isInjected = true) {
  const clock = { now: 0 };
  const told: string[] = [];
  const all = new InjectionStops({
    isInjected: () => isInjected,
    onStop: ({ namespace }) => told.push(namespace),
    now: () => clock.now,
  });
  return { clock, told, all };
}

const full = '0/3 nodes are available: 3 Insufficient memory.';

function pod(message: string | undefined, sidecar = true): V1Pod {
  return {
    metadata: {
      namespace: 'shop',
      name: 'virt-launcher-db',
      labels: { 'kubevirt.io': 'virt-launcher' },
      ownerReferences: [
        {
          apiVersion: 'kubevirt.io/v1',
          kind: 'VirtualMachineInstance',
          name: 'db',
          uid: 'u',
          controller: true,
        },
      ],
    },
    spec: { containers: [], initContainers: sidecar ? [{ name: 'nas-aware-migration' }] : [] },
    status: {
      phase: 'Pending',
      conditions:
        message === undefined
          ? []
          : [{ type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message }],
    },
  };
}

const vmi = (message: string) =>
  ({
    metadata: { namespace: 'shop', name: 'db' },
    status: { conditions: [{ type: 'Synchronized', status: 'False', reason: 'FailedCreate', message }] },
  }) as KubevirtObject;

describe('injection stops', () => {
  it('after a quota refused the pod of a VM, for half an hour after the last refusal', () => {
    const { all, clock, told } = stops();
    const refused = vmi('pods "virt-launcher-db" is forbidden: exceeded quota: compute');
    all.onVmi(refused);
    expect([all.isStopped('shop'), all.isStopped('other')]).toEqual([true, false]);
    clock.now = STOP_MS - 1;
    all.onVmi(refused);
    clock.now = STOP_MS + 1;
    expect(all.stopped()).toMatchObject([
      { namespace: 'shop', why: expect.stringContaining('exceeded quota') },
    ]);
    clock.now = 2 * STOP_MS;
    expect(all.isStopped('shop')).toBe(false);
    expect(told).toEqual(['shop']);
  });

  it('after a quota refused the target pod of a migration', () => {
    const { all } = stops();
    const vmim = {
      metadata: { namespace: 'shop', name: 'm' },
      spec: { vmiName: 'db' },
      status: { conditions: [{ type: 'migrationRejectedByResourceQuota', status: 'True' }] },
    } as KubevirtObject;
    all.onVmim(vmim, {});
    expect(all.isStopped('shop')).toBe(true);
  });

  it('not for what has nothing to do with us', () => {
    const { all } = stops();
    all.onVmi(vmi('the image cannot be pulled'));
    expect(all.isStopped('shop')).toBe(false);
    const { all: elsewhere } = stops(false);
    elsewhere.onVmi(vmi('exceeded quota'));
    expect(elsewhere.isStopped('shop')).toBe(false);
  });

  it('when a pod with our sidecar finds no node with room for a while', () => {
    const { all, clock } = stops();
    all.onPod(pod(full));
    clock.now = UNSCHEDULABLE_GRACE_MS - 1;
    all.onPod(pod(full));
    expect(all.isStopped('shop')).toBe(false);
    clock.now = UNSCHEDULABLE_GRACE_MS;
    expect(all.isStopped('shop')).toBe(true);
  });

  it('also when that pod finds one later', () => {
    const { all, clock } = stops();
    all.onPod(pod(full));
    clock.now = UNSCHEDULABLE_GRACE_MS;
    all.onPod(pod(undefined));
    clock.now += STOP_MS - 1;
    expect(all.isStopped('shop')).toBe(true);
    clock.now += 1;
    expect(all.isStopped('shop')).toBe(false);
  });

  it.each([
    ['a pod without our sidecar', pod(full, false)],
    ['a pod that no node suits for other reasons', pod("0/3 nodes are available: 3 node(s) didn't match")],
  ])('not for %s', (_what, waiting) => {
    const { all, clock } = stops();
    all.onPod(waiting);
    clock.now = UNSCHEDULABLE_GRACE_MS;
    expect(all.isStopped('shop')).toBe(false);
  });

  it('not for a pod that found a node in time', () => {
    const { all, clock } = stops();
    all.onPod(pod(full));
    all.onPod(pod(undefined));
    clock.now = UNSCHEDULABLE_GRACE_MS;
    expect(all.isStopped('shop')).toBe(false);
  });
});
