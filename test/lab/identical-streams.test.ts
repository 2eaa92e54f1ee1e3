import { expect, test } from 'vitest';
import { compareStreams, identicalStreams } from './identical-streams.ts';
import {
  forwardBytesSince,
  type RecordedConnection,
  type RecordedDirection,
  type RecorderReport,
} from './recorders.ts';

function direction(bytes: number, digest: string, timeline: [number, number][] = []): RecordedDirection {
  return {
    bytes,
    digest: digest.repeat(64),
    hashedBytes: bytes,
    ended: true,
    firstMs: null,
    lastMs: null,
    timeline,
    timelineTruncated: false,
  };
}

function connection(
  kind: RecordedConnection['kind'],
  id: number | null,
  forward: RecordedDirection,
  back = direction(0, 'e'),
) {
  return { ordinal: 0, kind, id, openedMs: 0, closedMs: null, errors: [], forward, return: back };
}

function report(...connections: RecordedConnection[]): RecorderReport {
  return { startedMs: 0, writtenMs: 0, open: 0, timelineMs: 10, connections };
}

const main = connection('main', null, direction(1000, 'a'), direction(50, 'b'));
const channel0 = connection('multifd', 0, direction(300, 'c'));
const channel1 = connection('multifd', 1, direction(400, 'd'));

test('equal streams are identical whatever the order in which connections arrived', () => {
  const comparison = compareStreams(report(main, channel0, channel1), report(channel1, main, channel0));
  expect(comparison).toEqual({
    identical: true,
    returnIdentical: true,
    streamBytes: 1700,
    connections: [
      { channel: 'main', bytes: 1000, identical: true },
      { channel: 'multifd 0', bytes: 300, identical: true },
      { channel: 'multifd 1', bytes: 400, identical: true },
    ],
    differences: [],
  });
  expect(identicalStreams(comparison, true)).toBe(true);
  expect(identicalStreams(comparison, false)).toBeNull();
});

test('one wrong byte, one missing byte, a missing and an additional connection are told', () => {
  const wrong = compareStreams(
    report(main),
    report(connection('main', null, direction(1000, 'f'), direction(50, 'b'))),
  );
  expect(wrong.identical).toBe(false);
  expect(wrong.differences[0]).toMatch(/^main: 1000 bytes, digest a{64} written, f{64} received$/);

  const short = compareStreams(report(main), report(connection('main', null, direction(999, 'a'))));
  expect(short.differences).toEqual(['main: 1000 bytes written, 999 received']);
  expect(identicalStreams(short, true)).toBe(false);

  const missing = compareStreams(report(main, channel0), report(main));
  expect(missing.identical).toBe(false);
  expect(missing.differences).toEqual([
    'multifd 0: 300 bytes left the source, and no such connection reached the target',
  ]);

  const additional = compareStreams(report(main), report(main, channel0));
  expect(additional.identical).toBe(false);
  expect(additional.differences).toEqual([
    'multifd 0: 300 bytes reached the target, and none left the source',
  ]);
});

test('channels that were swapped are not identical, though the bytes are the same in sum', () => {
  const swapped = compareStreams(
    report(main, channel0, channel1),
    report(main, connection('multifd', 0, channel1.forward), connection('multifd', 1, channel0.forward)),
  );
  expect(swapped.differences).toHaveLength(2);
});

test('nothing is never identical to nothing', () => {
  expect(identicalStreams(compareStreams(report(), report()), true)).toBe(false);
  const empty = connection('main', null, direction(0, 'a'));
  expect(identicalStreams(compareStreams(report(empty), report(empty)), true)).toBe(false);
});

test('a hash that does not cover all bytes proves nothing', () => {
  const behind = connection('main', null, { ...direction(1000, 'a'), hashedBytes: 900 });
  expect(compareStreams(report(behind), report(behind)).differences).toEqual([
    'main: only 900 of 1000 bytes were hashed when the report was written',
  ]);
});

test('the return path is told apart: a proxy may cut its end', () => {
  const cut = compareStreams(
    report(connection('main', null, direction(1000, 'a'), direction(40, 'x'))),
    report(main),
  );
  expect(cut.identical).toBe(true);
  expect(cut.returnIdentical).toBe(false);
});

test('connections without a mark are matched by their order', () => {
  const first = connection('other', null, direction(10, 'a'));
  const second = connection('other', null, direction(20, 'b'));
  expect(compareStreams(report(main, first, second), report(main, first, second)).identical).toBe(true);
  expect(compareStreams(report(main, first, second), report(main, second, first)).identical).toBe(false);
});

test('bytes since a moment: all later buckets and the one it falls into', () => {
  const timeline: [number, number][] = [
    [1000, 5],
    [1010, 7],
    [1030, 11],
  ];
  const one = report(
    connection('main', null, direction(23, 'a', timeline)),
    connection('multifd', 0, direction(7, 'b', [[1010, 100]])),
  );
  expect(forwardBytesSince(one, 1015)).toBe(7 + 11 + 100);
  expect(forwardBytesSince(one, 1020)).toBe(11);
  expect(forwardBytesSince(one, 0)).toBe(123);
  expect(forwardBytesSince(one, 1040)).toBe(0);
});
