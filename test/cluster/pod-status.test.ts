import type { V1Pod } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import { type ContainerStanding, type PodStanding, podStatus } from './pod-status.ts';

const POD: V1Pod = {
  metadata: { name: 'p' },
  spec: {
    initContainers: [{ name: 'sidecar', restartPolicy: 'Always' }],
    containers: [{ name: 'compute' }],
  },
};
const T0 = '2026-01-01T00:00:00Z';
const T1 = '2026-01-01T00:00:05Z';
const running: ContainerStanding = { kind: 'running', startedAt: T0 };
const ended = (exitCode: number): ContainerStanding => ({
  kind: 'ended',
  exitCode,
  startedAt: T0,
  endedAt: T1,
});

const statusOf = (standings: Record<string, ContainerStanding>, pod = POD) => {
  const containers = new Map(
    Object.entries(standings).map(([name, standing]) => [name, { ...standing, restarts: 0 }]),
  );
  const standing: PodStanding = { containers, startTime: T0, hostIP: '10.0.0.1', podIP: '10.0.0.2' };
  return podStatus(pod, standing, T1);
};
const conditionOf = (status: ReturnType<typeof statusOf>, type: string) =>
  status.conditions?.find((one) => one.type === type);

describe('podStatus', () => {
  it('is Pending, and not ready, until the sidecar runs', () => {
    const status = statusOf({ compute: running });
    expect(status.phase).toBe('Pending');
    expect(conditionOf(status, 'Initialized')).toMatchObject({ status: 'False' });
    expect(conditionOf(status, 'Ready')).toMatchObject({ status: 'False' });
  });

  it('is Running and ready with both, the sidecar among the init containers', () => {
    const status = statusOf({ compute: running, sidecar: running });
    expect(status).toMatchObject({ phase: 'Running', podIP: '10.0.0.2' });
    expect(conditionOf(status, 'Ready')).toMatchObject({ status: 'True' });
    expect(status.initContainerStatuses).toMatchObject([{ name: 'sidecar', ready: true, started: true }]);
    expect(status.containerStatuses).toMatchObject([{ name: 'compute', ready: true }]);
  });

  it.each([
    [0, 'Succeeded'],
    [1, 'Failed'],
  ])('is over when compute ended with %i: %s, whatever the sidecar does', (exitCode, phase) => {
    const status = statusOf({ compute: ended(exitCode), sidecar: running });
    expect(status.phase).toBe(phase);
    expect(conditionOf(status, 'Ready')).toMatchObject({ status: 'False', reason: 'PodCompleted' });
  });

  it('is not Initialized any more while the sidecar is down', () => {
    const status = statusOf({ compute: running, sidecar: ended(1) });
    expect(status.initContainerStatuses?.[0]?.state?.terminated).toMatchObject({
      exitCode: 1,
      reason: 'Error',
    });
    expect(conditionOf(status, 'Ready')).toMatchObject({ status: 'False' });
  });

  it('keeps the time of a condition that has not changed', () => {
    const before = statusOf({ compute: running, sidecar: running });
    for (const condition of before.conditions ?? []) condition.lastTransitionTime = T0 as unknown as Date;
    const after = statusOf({ compute: ended(0), sidecar: running }, { ...POD, status: before });
    expect(conditionOf(after, 'PodScheduled')?.lastTransitionTime).toBe(T0);
    expect(conditionOf(after, 'Ready')?.lastTransitionTime).toBe(T1);
  });
});
