import { describe, expect, it } from 'vitest';
import type { IndexStatus } from '../../control/messages.ts';
import { Fleet, MAX_NODES, OTHER_NODES } from './fleet.ts';

function fleet() {
  const counted = { cpu: 0, read: 0, built: [] as number[] };
  return {
    counted,
    fleet: new Fleet({
      onCpu: (seconds) => {
        counted.cpu += seconds;
      },
      onNasRead: (bytes) => {
        counted.read += bytes;
      },
      onBuilt: (seconds) => counted.built.push(seconds),
    }),
  };
}

const index = (change: Partial<IndexStatus> = {}): IndexStatus => ({
  blocks: 10,
  bytes: 100,
  ageSeconds: 5,
  ready: true,
  ...change,
});
const stats = (change: Partial<IndexStatus>, cpuMilliseconds: number) => ({
  type: 'stats' as const,
  index: index(change),
  residentBytes: 1000,
  cpuMilliseconds,
});

describe('fleet of sidecars', () => {
  it('is summed by node', () => {
    const { fleet: all } = fleet();
    all.connected('a', index());
    all.connected('b', index({ blocks: 20, ageSeconds: 50, ready: false }));
    all.connected('c', index());
    all.told('a', stats({ blocks: 15 }, 10));
    const sums = all.byNode((pod) => (pod === 'c' ? 'node-2' : 'node-1'));
    expect(sums.get('node-1')).toEqual({
      sidecars: 2,
      ready: 1,
      blocks: 35,
      indexBytes: 200,
      residentBytes: 1000,
      maxAgeSeconds: 50,
    });
    expect(sums.get('node-2')?.sidecars).toBe(1);
    all.ended('c');
    expect(all.byNode(() => 'node-1').size).toBe(1);
  });

  it('counts what was used since it is known, and restarts as such', () => {
    const { fleet: all, counted } = fleet();
    all.connected('a', index({ nasReadBytes: 500 }));
    all.told('a', stats({ nasReadBytes: 600 }, 9000));
    all.told('a', stats({ nasReadBytes: 700, buildSeconds: 3 }, 10_000));
    all.told('a', stats({ nasReadBytes: 700, buildSeconds: 3 }, 10_500));
    all.told('a', stats({ nasReadBytes: 0 }, 100));
    all.told('a', stats({ nasReadBytes: 50 }, 200));
    expect(counted).toEqual({ cpu: 1.6, read: 250, built: [3] });
  });

  it('has no more series than nodes are kept apart, and leaves out nobody', () => {
    const { fleet: all } = fleet();
    for (let i = 0; i < MAX_NODES + 50; i += 1) all.connected(`pod-${i}`, index());
    const sums = all.byNode((pod) => pod.replace('pod', 'node'));
    expect(sums.size).toBe(MAX_NODES + 1);
    expect(sums.get(OTHER_NODES)?.sidecars).toBe(50);
  });

  it('knows nothing of a pod that is not connected', () => {
    const { fleet: all, counted } = fleet();
    all.told('a', stats({ nasReadBytes: 700 }, 10));
    expect([all.byNode(() => 'n').size, counted.read]).toEqual([0, 0]);
  });
});
