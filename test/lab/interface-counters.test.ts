import { expect, test } from 'vitest';
import { parseNetDev, type Traffic, trafficBetween } from './interface-counters.ts';

const NET_DEV = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      200       2    0    0    0     0       0          0
  mig0: 3278360   49670    0    0    0     0          0         0 14069189600  929298    0    0    0     0       0          0
nas0:7 8 0 0 0 0 0 0 9 10 0 0 0 0 0 0
`;

test('/proc/net/dev: both directions of every interface, headers ignored, with and without a space after the colon', () => {
  const counters = parseNetDev(NET_DEV);
  expect([...counters.keys()]).toEqual(['lo', 'mig0', 'nas0']);
  expect(counters.get('mig0')).toEqual({
    rxBytes: 3278360,
    rxPackets: 49670,
    txBytes: 14069189600,
    txPackets: 929298,
  });
  expect(counters.get('nas0')).toEqual({ rxBytes: 7, rxPackets: 8, txBytes: 9, txPackets: 10 });
});

test('traffic between two readings, by network and direction', () => {
  const reading = (at: number, n: number): Traffic => ({
    atMs: at,
    migration: { sourceToTarget: n, targetToSource: 2 * n },
    storage: { source: { read: 3 * n, written: 4 * n }, target: { read: 5 * n, written: 6 * n } },
  });
  expect(trafficBetween(reading(1000, 1), reading(1500, 11))).toEqual(reading(500, 10));
});
