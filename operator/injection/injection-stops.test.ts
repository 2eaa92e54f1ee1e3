import type { V1Pod } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import type { KubevirtObject } from '../controller/caches.ts';
import {
  InjectionStops,
  LEFT_OUT_MS,
  STOP_MS,
  UNSCHEDULABLE_GRACE_MS,
  UNSEEN_GRACE_MS,
  UNSEEN_REQUESTS,
} from './injection-stops.ts';

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

  it.each([
    'pods "virt-launcher-db" is forbidden: failed quota: compute: must specify limits.cpu for: nas-aware-migration',
    'pods "virt-launcher-db" is forbidden: maximum cpu usage per Container is 50m, but limit is 100m',
    'pods "virt-launcher-db" is forbidden: [minimum memory usage per Container is 1Gi, but request is 256Mi, and others]',
    'pods "virt-launcher-db" is forbidden: maximum memory usage per Pod is 2Gi, but limit is 2415919104',
    'pods "virt-launcher-db" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 20.000000',
  ])('after a quota or a limit range refused the pod of a VM: %s', (message) => {
    const { all } = stops();
    all.onVmi(vmi(message));
    expect(all.isStopped('shop')).toBe(true);
  });

  /** Asked for as admission does: true when it is to get our sidecar. */
  function ask(all: InjectionStops, asked = pod(undefined, false)): boolean {
    all.onAsked('shop', asked);
    return all.onInjected(asked);
  }

  /** Refused until we leave our sidecar out. */
  function refuse({ all, clock }: ReturnType<typeof stops>): void {
    const fromMs = clock.now;
    expect([ask(all), ask(all), ask(all)]).toEqual([true, true, true]);
    clock.now = fromMs + UNSEEN_GRACE_MS;
    expect(ask(all)).toBe(false);
  }

  it('when a pod that did not come with our sidecar again and again comes without it', () => {
    const world = stops();
    const { all, told } = world;
    refuse(world);
    expect(all.isStopped('shop')).toBe(false);
    all.onPod(pod(undefined, false));
    expect(all.stopped()).toMatchObject([{ namespace: 'shop', why: expect.stringContaining('VM db') }]);
    expect(told).toEqual(['shop']);
  });

  it('not when that is refused without it as well: it is asked for with it again, for as long as before', () => {
    const world = stops();
    const { all, clock, told } = world;
    for (let round = 0; round < 3; round += 1) {
      refuse(world);
      clock.now += LEFT_OUT_MS - 1;
      expect(ask(all)).toBe(false);
      clock.now += 1;
    }
    expect(ask(all)).toBe(true);
    all.onPod(pod(undefined));
    expect(told).toEqual([]);
  });

  it('not for the pods of another VM meanwhile, which get our sidecar', () => {
    const world = stops();
    refuse(world);
    const other = pod(undefined, false);
    Object.assign(other.metadata?.ownerReferences?.[0] ?? {}, { name: 'web', uid: 'other' });
    expect(ask(world.all, other)).toBe(true);
  });

  it.each([
    ['for a minute', UNSEEN_GRACE_MS - 1, UNSEEN_REQUESTS],
    ['often', STOP_MS - 1, UNSEEN_REQUESTS - 1],
  ])('not when a pod is not asked for %s', (_what, afterMs, requests) => {
    const { all, clock } = stops();
    for (let asked = 0; asked < requests; asked += 1) ask(all);
    clock.now = afterMs;
    expect(ask(all)).toBe(true);
    all.onPod(pod(undefined, false));
    expect(all.isStopped('shop')).toBe(false);
  });

  it('not for dry runs, which are not asked for', () => {
    const world = stops();
    for (let asked = 0; asked < UNSEEN_REQUESTS; asked += 1) world.all.onAsked('shop', undefined);
    refuse(world);
    world.clock.now += LEFT_OUT_MS;
    world.all.onAsked('shop', undefined);
    world.all.onPod(pod(undefined, false));
    expect(world.told).toEqual(['shop']);
  });

  it('not when it came, and another is asked for: for the next migration of the same VM', () => {
    const { all, clock } = stops();
    const next = pod(undefined, false);
    Object.assign(next.metadata?.labels ?? {}, { 'kubevirt.io/migrationJobUID': 'm-1' });
    for (let asked = 0; asked < UNSEEN_REQUESTS; asked += 1) ask(all);
    all.onPod(pod(undefined));
    clock.now = UNSEEN_GRACE_MS;
    expect(ask(all)).toBe(true);
    for (let asked = 0; asked < UNSEEN_REQUESTS; asked += 1) ask(all, next);
    all.onPod(next);
    clock.now += UNSEEN_GRACE_MS;
    expect(ask(all, next)).toBe(true);
    expect(all.isStopped('shop')).toBe(false);
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

  const unpulled = (reason: string, container = 'nas-aware-migration') => {
    const waiting = pod(undefined);
    const state = { waiting: { reason, message: 'Back-off pulling image "nasmig:1"' } };
    const status = { name: container, image: '', imageID: '', ready: false, restartCount: 0, state };
    return { ...waiting, status: { ...waiting.status, initContainerStatuses: [status] } };
  };

  it('when the image of our sidecar cannot be pulled for a while', () => {
    const { all, clock, told } = stops();
    all.onPod(unpulled('ErrImagePull'));
    clock.now = UNSCHEDULABLE_GRACE_MS - 1;
    all.onPod(unpulled('ImagePullBackOff'));
    expect(all.isStopped('shop')).toBe(false);
    clock.now = UNSCHEDULABLE_GRACE_MS;
    expect(all.stopped()).toEqual([
      {
        namespace: 'shop',
        why: 'the image of the sidecar cannot be pulled (ImagePullBackOff: Back-off pulling image "nasmig:1")',
      },
    ]);
    expect(told).toEqual(['shop']);
  });

  it('not when it was pulled in the end, nor for the image of another container', () => {
    const { all, clock } = stops();
    all.onPod(unpulled('ErrImagePull'));
    all.onPod(unpulled('PodInitializing'));
    all.onPod({
      ...unpulled('ImagePullBackOff', 'virt-launcher-init'),
      metadata: pod(undefined).metadata ?? {},
    });
    clock.now = UNSCHEDULABLE_GRACE_MS;
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
