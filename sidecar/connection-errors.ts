// What can end one connection of a migration besides a peer that breaks the link protocol (link/link-errors.ts). Before
// the end of the stream each of them fails QEMU's migration, and the VM goes on at its source.

import {
  ABORT_DESTINATION_QEMU_GONE,
  ABORT_INTERNAL,
  ABORT_OTHER_CONNECTION,
  ABORT_PROOF,
  ABORT_PROTOCOL,
  ABORT_RETURN_PATH_STUCK,
  ABORT_SHUTDOWN,
  ABORT_SILENT,
  ABORT_SOURCE_QEMU_GONE,
} from './link/frame-types.ts';
import { LinkError } from './link/link-errors.ts';

const because = (cause: Error | undefined): string => (cause === undefined ? '' : ` (${cause.message})`);

export class LinkClosedError extends LinkError {
  readonly code = 'NASMIG_LINK_CLOSED';
  /** @param state what the connection was doing. */
  constructor(state: string, cause?: Error) {
    super(
      `The connection to the other sidecar closed while it was ${state}${because(cause)}`,
      'Look for restarts of the other pod or of virt-handler.',
      ABORT_OTHER_CONNECTION,
    );
  }
}

export class SourceQemuGoneError extends LinkError {
  readonly code = 'NASMIG_SOURCE_QEMU_GONE';
  constructor(streamBytes: number) {
    super(
      `The source QEMU closed its migration connection after ${streamBytes} bytes, before the end of RAM`,
      'The migration was cancelled or failed there; see the events of the VirtualMachineInstanceMigration.',
      ABORT_SOURCE_QEMU_GONE,
    );
  }
}

export class DestinationQemuGoneError extends LinkError {
  readonly code = 'NASMIG_DESTINATION_QEMU_GONE';
  constructor(when: string, cause?: Error) {
    super(
      `The destination QEMU's migration connection was closed ${when}${because(cause)}`,
      "See QEMU's log in the target pod.",
      ABORT_DESTINATION_QEMU_GONE,
    );
  }
}

/** It would have been relayed raw, had it said so before it was framed: a switch to post-copy must not depend on the sidecars. */
export class LatePostCopyError extends LinkError {
  readonly code = 'NASMIG_LATE_POST_COPY';
  constructor() {
    super(
      'QEMU announced post-copy on its main channel when the migration was framed already',
      'The VM goes on at its source; migrate it again, with allowPostCopy set to false in the MigrationPolicy that applies to it.',
      ABORT_INTERNAL,
    );
  }
}

export class ReturnPathStuckError extends LinkError {
  readonly code = 'NASMIG_RETURN_PATH_STUCK';
  constructor(heldBytes: number) {
    super(
      `The source QEMU does not read its return path: ${heldBytes} bytes wait`,
      "See QEMU's log in the source pod.",
      ABORT_RETURN_PATH_STUCK,
    );
  }
}

/** Another connection of the same migration broke, and with it the migration. */
export class OtherConnectionError extends LinkError {
  readonly code = 'NASMIG_OTHER_CONNECTION';
  constructor(cause: Error) {
    super(
      `Another connection of this migration ended: ${cause.message}`,
      'That error is the one to look at.',
      ABORT_OTHER_CONNECTION,
    );
  }
}

export class ShutdownError extends LinkError {
  readonly code = 'NASMIG_SHUTDOWN';
  constructor() {
    super(
      'The sidecar is being stopped while a migration is under way',
      'The migration fails and the VM goes on at its source; see why the pod was stopped.',
      ABORT_SHUTDOWN,
    );
  }
}

export class CreditOverrunError extends LinkError {
  readonly code = 'NASMIG_CREDIT_OVERRUN';
  constructor(sentBytes: number, creditLimit: number) {
    super(
      `The source sidecar sent ${sentBytes} stream bytes although it was granted ${creditLimit}`,
      'Compare the versions of the two sidecars.',
      ABORT_PROTOCOL,
    );
  }
}

/** The other side acknowledges and does not answer PINGs: the link's rate could not be learned, and the list of open ones would grow. */
export class PongsWithheldError extends LinkError {
  readonly code = 'NASMIG_PONGS_WITHHELD';
  constructor(openPings: number) {
    super(
      `The target sidecar left ${openPings} PINGs without an answer although it is there`,
      'Compare the versions of the two sidecars.',
      ABORT_PROTOCOL,
    );
  }
}

/** The other side sends and does not read: what it is due cannot be held without bound. */
export class PeerNotReadingError extends LinkError {
  readonly code = 'NASMIG_PEER_NOT_READING';
  constructor(heldBytes: number) {
    super(
      `The other sidecar does not read the link: ${heldBytes} bytes wait for it`,
      'See the log of the other sidecar and the state of the migration network.',
      ABORT_SILENT,
    );
  }
}

/** Too many connections were open that had not proved themselves; this was the oldest that had said nothing. */
export class CrowdedOutError extends LinkError {
  readonly code = 'NASMIG_CROWDED_OUT';
  constructor(limit: number) {
    super(
      `${limit} connections were open without a proven HELLO; this was the oldest of them`,
      "Look for who else connects to the target's migration port.",
      ABORT_PROOF,
    );
  }
}

export class UnaskedPatchError extends LinkError {
  readonly code = 'NASMIG_UNASKED_PATCH';
  constructor(batch: number, attempt: number) {
    super(
      `A PATCH came for batch ${batch}, attempt ${attempt}, that no RESEND had asked for`,
      'Compare the versions of the two sidecars.',
      ABORT_PROTOCOL,
    );
  }
}
