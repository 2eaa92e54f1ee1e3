import type { V1Pod } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import { InjectionStops, UNSCHEDULABLE_GRACE_MS } from '../injection/injection-stops.ts';
import { SIDECAR_CONTAINER } from '../kubevirt/launcher-pod.ts';
import { trimPod } from './caches.ts';

describe('a pod in the cache', () => {
  it('still says that the image of its sidecar cannot be pulled', () => {
    const waiting = (name: string) => ({
      ...{ name, image: '', imageID: '', ready: false, restartCount: 0 },
      state: { waiting: { reason: 'ImagePullBackOff' } },
    });
    const pod: V1Pod = {
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
      spec: { containers: [], initContainers: [{ name: SIDECAR_CONTAINER }] },
      status: { phase: 'Pending', initContainerStatuses: [waiting('other'), waiting(SIDECAR_CONTAINER)] },
    };
    trimPod(pod);
    expect(pod.status?.initContainerStatuses?.map(({ name }) => name)).toEqual([SIDECAR_CONTAINER]);
    const clock = { now: 0 };
    const stops = new InjectionStops({ isInjected: () => true, onStop: () => {}, now: () => clock.now });
    stops.onPod(pod);
    clock.now = UNSCHEDULABLE_GRACE_MS;
    expect(stops.isStopped('shop')).toBe(true);
  });
});
