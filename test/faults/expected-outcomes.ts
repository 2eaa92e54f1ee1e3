// What must become of a migration when a part of it fails: by fault and by the phase in which it hits. Written before the
// runs, which are checked against it (fault-run.ts); docs/failure-modes.md tells the same to admins. Pure.
//
// accelerated   it completes, and the sidecars framed it to its end
// plain         it completes, relayed byte for byte or without a sidecar in the way
// completed     it completes, and a sidecar that could have said how is gone
// failed-safe   it fails or is cancelled; the VM runs on its source, and its target has none

/** What is broken. */
export const FAULTS = [
  'source-sidecar-killed',
  'target-sidecar-killed',
  'sidecar-out-of-memory',
  'coordinator-killed',
  'source-proxy-killed',
  'target-proxy-killed',
  'source-libvirt-connection-killed',
  'target-libvirt-connection-killed',
  'nas-stopped',
  'nas-frozen',
  'nas-slow',
  'nas-restarted',
  'nas-errors',
  'nas-stale',
  'link-cut',
  'link-stalled',
  'disk-full',
  'cancelled',
] as const;

export type Fault = (typeof FAULTS)[number];

/** When it is broken. */
export const PHASES = ['arming', 'bulk', 'decision', 'stopped', 'end'] as const;

export type Phase = (typeof PHASES)[number];

export type Outcome = 'accelerated' | 'plain' | 'completed' | 'failed-safe';

/** Why several outcomes may be right: the phase has room for them, and which one comes is a race outside the sidecars. */
interface Expectation {
  readonly outcomes: readonly Outcome[];
  readonly because: string;
}

type Row = Readonly<Record<Phase, Expectation>>;

const expect = (because: string, ...outcomes: Outcome[]): Expectation => ({ outcomes, because });

const DEATH_IN_THE_PATH = expect(
  'a connection of the migration ended before the stream did: QEMU fails the migration and goes on',
  'failed-safe',
);
/**
 * "End" begins when the destination QEMU says SHUT, which the source has not heard yet. A part of the path that dies between
 * the two leaves the source without it, and it takes the migration as failed; libvirt then ends the destination, which has not run.
 */
const DEATH_BEFORE_SHUT_IS_HEARD = expect(
  'the source QEMU has not heard that the destination is done: it goes on, and libvirt ends the destination, which never ran',
  'failed-safe',
);
const ONLY_REFERENCES_SUFFER = expect('what cannot be read from the NAS comes over the link', 'accelerated');

/** One row for both sidecars: which of them dies makes no difference to the VM. */
const SIDECAR_DIES: Row = {
  arming: expect(
    'QEMU connects to a socket that nobody serves, or to the one that the restarted sidecar gave back',
    'failed-safe',
    'plain',
  ),
  bulk: DEATH_IN_THE_PATH,
  decision: DEATH_IN_THE_PATH,
  stopped: DEATH_IN_THE_PATH,
  end: DEATH_BEFORE_SHUT_IS_HEARD,
};

const MEMORY_RUNS_OUT_LATE = expect(
  'as a killed sidecar, or it survives because it needs no more, or all was delivered when it died',
  'failed-safe',
  'accelerated',
  'completed',
);

const PROXY_DIES: Row = {
  arming: expect('the source QEMU cannot reach the destination', 'failed-safe'),
  bulk: DEATH_IN_THE_PATH,
  decision: DEATH_IN_THE_PATH,
  stopped: DEATH_IN_THE_PATH,
  end: DEATH_BEFORE_SHUT_IS_HEARD,
};

const LIBVIRT_LOSES_ITS_PEER: Row = {
  arming: expect('libvirt cannot prepare, or cannot perform', 'failed-safe'),
  bulk: expect('libvirt gives the migration up when its connection is gone', 'failed-safe'),
  decision: expect('libvirt gives the migration up when its connection is gone', 'failed-safe'),
  stopped: expect(
    'libvirt gives up; the destination is ended when its client is gone and it has not run',
    'failed-safe',
  ),
  end: expect(
    'libvirt gives up; the destination is ended when its client is gone and it has not run',
    'failed-safe',
  ),
};

const NAS_FAILS: Row = {
  arming: expect(
    'decided before the NAS was needed, or the volume is found unreadable in time',
    'accelerated',
    'plain',
  ),
  bulk: ONLY_REFERENCES_SUFFER,
  decision: ONLY_REFERENCES_SUFFER,
  stopped: ONLY_REFERENCES_SUFFER,
  end: ONLY_REFERENCES_SUFFER,
};

const HARMLESS: Row = {
  arming: expect('nothing of it is needed before the migration has begun', 'accelerated', 'plain'),
  bulk: expect('nothing of it is in the way of the migration', 'accelerated'),
  decision: expect('nothing of it is in the way of the migration', 'accelerated'),
  stopped: expect('nothing of it is in the way of the migration', 'accelerated'),
  end: expect('nothing of it is in the way of the migration', 'accelerated'),
};

const TABLE: Readonly<Record<Fault, Row>> = {
  'source-sidecar-killed': SIDECAR_DIES,
  'target-sidecar-killed': SIDECAR_DIES,
  // A process that allocates nothing more lives on with a limit that it has reached.
  'sidecar-out-of-memory': {
    arming: expect(
      'as a killed sidecar, or it survives because it needs no more',
      'failed-safe',
      'plain',
      'accelerated',
    ),
    bulk: expect(
      'as a killed sidecar, or it survives because it needs no more',
      'failed-safe',
      'accelerated',
    ),
    decision: expect(
      'as a killed sidecar, or it survives because it needs no more',
      'failed-safe',
      'accelerated',
    ),
    // It dies when it next needs memory, which may be after the last byte.
    stopped: MEMORY_RUNS_OUT_LATE,
    end: MEMORY_RUNS_OUT_LATE,
  },
  'coordinator-killed': {
    ...HARMLESS,
    // GO may have been said already.
    arming: expect('no GO within 2 s: relayed raw', 'plain'),
  },
  'source-proxy-killed': PROXY_DIES,
  'target-proxy-killed': PROXY_DIES,
  'source-libvirt-connection-killed': LIBVIRT_LOSES_ITS_PEER,
  'target-libvirt-connection-killed': LIBVIRT_LOSES_ITS_PEER,
  'nas-stopped': NAS_FAILS,
  'nas-frozen': NAS_FAILS,
  'nas-slow': NAS_FAILS,
  'nas-restarted': NAS_FAILS,
  'nas-errors': NAS_FAILS,
  'nas-stale': NAS_FAILS,
  'link-cut': {
    arming: expect('libvirt cannot prepare, or cannot perform', 'failed-safe'),
    bulk: expect('the sidecars or libvirt give up after silence', 'failed-safe'),
    decision: expect('the sidecars or libvirt give up after silence', 'failed-safe'),
    stopped: expect('the sidecars or libvirt give up after silence', 'failed-safe'),
    end: expect('the sidecars or libvirt give up after silence', 'failed-safe'),
  },
  // Three seconds without a packet: TCP sends again.
  'link-stalled': {
    ...HARMLESS,
    arming: expect(
      'GO came in time, or it did not; a proxy that dials while its link is down is refused at once, as without us',
      ...(['accelerated', 'plain', 'failed-safe'] as const),
    ),
  },
  'disk-full': HARMLESS,
  cancelled: {
    arming: expect('cancelled before the first byte, or too early for libvirt to know of it', 'failed-safe'),
    bulk: expect('cancelled', 'failed-safe'),
    decision: expect('cancelled', 'failed-safe'),
    stopped: expect('cancelled, or too late for it', 'failed-safe', 'accelerated'),
    end: expect('cancelled, or too late for it', 'failed-safe', 'accelerated'),
  },
};

/** The outcomes that are right for a fault in a phase, and why. */
export function expectedOutcome(fault: Fault, phase: Phase): Expectation {
  return TABLE[fault][phase];
}
