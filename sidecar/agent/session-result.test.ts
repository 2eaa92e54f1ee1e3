import { describe, expect, it } from 'vitest';
import { resultSchema } from '../../control/messages.ts';
import { DestinationQemuGoneError, LatePostCopyError, SourceQemuGoneError } from '../connection-errors.ts';
import { ABORT_SOURCE_QEMU_GONE } from '../link/frame-types.ts';
import { LinkPeerAbortError, LinkProofError } from '../link/link-errors.ts';
import type { PipelineSnapshot } from './pipeline.ts';
import { isWorthInheriting, type SessionFacts, sessionResult } from './session-result.ts';

const snapshot: PipelineSnapshot = {
  stage: 'ending',
  iterations: 2,
  ramBytes: 1 << 30,
  remainingBytes: 0,
  qemuBytes: 1000,
  linkBytes: 100,
  nasBytes: 4096,
  pages: { reference: 1, literalRaw: 0, literalCompressed: 2, zero: 3 },
  resends: 1,
  batches: 4,
  volumes: [{ name: 'rootdisk', nasBytes: 4096, uncached: true }],
};

const facts: SessionFacts = {
  migrationUid: '6f1b7a52-2c9e-4f0a-9a53-0d5f1d3c8e11',
  epoch: 7,
  role: 'source',
  mode: 'accelerate',
  connections: 9,
  raw: undefined,
  relayedBytes: 0,
  relayFailure: undefined,
  observed: undefined,
  framed: { snapshot, failure: undefined, rawReason: undefined },
  stopped: false,
  durationMs: 1234.5,
  downtimeMs: 99.4,
  cpuMilliseconds: 10.6,
};

const framedWith = (change: Partial<SessionFacts['framed'] & object>): SessionFacts => ({
  ...facts,
  framed: { snapshot, failure: undefined, rawReason: undefined, ...change },
});

describe('sessionResult', () => {
  it('tells what was read for an index where that was counted', () => {
    expect(sessionResult(facts)).not.toHaveProperty('indexNasBytes');
    const result = sessionResult(framedWith({ snapshot: { ...snapshot, indexNasBytes: 0 } }));
    expect(result.indexNasBytes).toBe(0);
    expect(resultSchema.parse(result)).toEqual(result);
  });

  it('tells that plain is expected to be faster only when it is', () => {
    const told = (isPlainFaster: boolean) =>
      sessionResult(framedWith({ snapshot: { ...snapshot, isPlainFaster } })).isPlainFaster;
    expect(told(true)).toBe(true);
    expect(told(false)).toBeUndefined();
  });

  it('tells all counters of a framed migration, in whole numbers', () => {
    const result = sessionResult(facts);
    expect(result).toEqual({
      type: 'result',
      migrationUid: facts.migrationUid,
      epoch: 7,
      role: 'source',
      outcome: 'accelerated',
      qemuBytes: 1000,
      linkBytes: 100,
      nasBytes: 4096,
      pages: snapshot.pages,
      resends: 1,
      iterations: 2,
      durationMs: 1235,
      downtimeMs: 99,
      cpuMilliseconds: 11,
      plainLinkBytes: 1000,
      volumes: snapshot.volumes,
    });
    expect(resultSchema.parse(result)).toEqual(result);
  });

  it.each<[string, SessionFacts, object]>([
    [
      'nobody connected',
      { ...facts, connections: 0, framed: undefined, raw: { reason: 'PeerRaw' } },
      { outcome: 'unused', reason: 'PeerRaw' },
    ],
    [
      'no GO came',
      { ...facts, framed: undefined, raw: { reason: 'NoGo' }, relayedBytes: 50 },
      { outcome: 'raw', reason: 'NoGo', qemuBytes: 50, linkBytes: 50 },
    ],
    [
      'nothing was framed',
      framedWith({ snapshot: { ...snapshot, batches: 0 }, rawReason: 'PostCopyAnnounced' }),
      { outcome: 'raw', reason: 'PostCopyAnnounced' },
    ],
    ['it was observed', { ...facts, mode: 'observe', framed: undefined }, { outcome: 'observed' }],
    [
      'a relayed connection could not be passed on',
      { ...facts, framed: undefined, raw: { reason: 'NoGo' }, relayFailure: new Error('refused') },
      { outcome: 'failed', reason: 'NoGo', detail: 'refused' },
    ],
    ['the process stopped', { ...facts, stopped: true }, { outcome: 'failed', reason: 'SidecarStopping' }],
    [
      'the source QEMU closed early',
      framedWith({ failure: new SourceQemuGoneError(5) }),
      { outcome: 'failed', reason: 'Cancelled' },
    ],
    [
      'the other side says that it did',
      framedWith({ failure: new LinkPeerAbortError(ABORT_SOURCE_QEMU_GONE, 'gone') }),
      { outcome: 'failed', reason: 'Cancelled' },
    ],
    [
      'post-copy was announced too late to be relayed',
      framedWith({ failure: new LatePostCopyError() }),
      { outcome: 'failed', reason: 'PostCopyAnnounced' },
    ],
    [
      'the other side has another key',
      framedWith({ failure: new LinkProofError('wrong') }),
      { outcome: 'failed', reason: 'LinkHandshakeFailed' },
    ],
  ])('when %s', (_what, given, expected) => {
    const result = sessionResult(given);
    expect(result).toMatchObject(expected);
    expect(resultSchema.parse(result)).toEqual(result);
  });

  it('gives words alone where no documented reason fits, and bounds them', () => {
    const failure = new DestinationQemuGoneError(`x${'y'.repeat(5000)}`);
    const result = sessionResult(framedWith({ failure }));
    expect(result.outcome).toBe('failed');
    expect(result.reason).toBeUndefined();
    expect(result.detail).toHaveLength(1024);
  });

  it('tells of an observed migration what it would have been, and of no other', () => {
    const estimate = {
      linkBytes: 10,
      nasBytes: 8192,
      pages: { reference: 2, literalRaw: 0, literalCompressed: 1, zero: 0 },
      hitsCountedTimes: 8,
    };
    const observed: SessionFacts = {
      ...facts,
      mode: 'observe',
      framed: undefined,
      relayedBytes: 5000,
      observed: { estimate, iterations: 3 },
    };
    const result = resultSchema.parse(sessionResult(observed));
    expect(result).toMatchObject({
      outcome: 'observed',
      estimate,
      iterations: 3,
      qemuBytes: 5000,
      linkBytes: 5000,
      plainLinkBytes: 5000,
      nasBytes: 0,
    });
    const gaveUp = sessionResult({ ...observed, raw: { reason: 'NoGo' } });
    expect(gaveUp).toMatchObject({ outcome: 'raw', iterations: 0 });
    expect(gaveUp).not.toHaveProperty('estimate');
  });

  it('tells what broke a connection that was relayed, which is no failure of ours', () => {
    const relayBroke = new Error('read ECONNRESET');
    const detail = 'a relayed connection broke: read ECONNRESET';
    const raw = { ...snapshot, batches: 0 };
    expect(
      sessionResult({ ...framedWith({ snapshot: raw, rawReason: 'LinkVersion' }), relayBroke }),
    ).toMatchObject({ outcome: 'raw', reason: 'LinkVersion', detail });
    expect(sessionResult({ ...facts, framed: undefined, raw: { reason: 'NoGo' }, relayBroke })).toMatchObject(
      { outcome: 'raw', reason: 'NoGo', detail },
    );
  });
});

describe('what a target rebuilt', () => {
  it.each([
    [{ reference: 0, literalRaw: 0, literalCompressed: 0, zero: 9 }, false],
    [{ reference: 20, literalRaw: 40, literalCompressed: 40, zero: 0 }, false],
    [{ reference: 21, literalRaw: 40, literalCompressed: 39, zero: 1000 }, true],
    [{ reference: 1, literalRaw: 0, literalCompressed: 0, zero: 0 }, true],
  ])('of %o is worth inheriting: %s', (pages, isWorth) => {
    expect(isWorthInheriting(pages)).toBe(isWorth);
  });
});
