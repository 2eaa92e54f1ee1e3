// Every way in which the other side of the link, or our own use of the codec, can be wrong: one class a kind, each with
// a stable code, the values involved and what to do next. Anything a peer sends ends in one of these or is accepted.
// What each side does when one is thrown is in docs/link-protocol.md, "When the peer breaks the protocol".
import {
  ABORT_INTERNAL,
  ABORT_OTHER_CONNECTION,
  ABORT_PROOF,
  ABORT_PROTOCOL,
  ABORT_SILENT,
  ABORT_TAG,
  ABORT_VERSION,
} from './frame-types.ts';

const PEER_AT_FAULT =
  'The connection is closed and the VM stays on its source; compare the versions of the two sidecars, and report it if they are equal.';

export abstract class LinkError extends Error {
  abstract readonly code: string;
  /** The code of the ABORT that tells the peer. */
  readonly abortCode: number;

  constructor(what: string, next: string, abortCode: number) {
    super(`${what}. ${next}`);
    this.name = new.target.name;
    this.abortCode = abortCode;
  }
}

/** The first bytes of a HELLO body are not "NASM". */
export class LinkBadMagicError extends LinkError {
  readonly code = 'NASMIG_LINK_BAD_MAGIC';
  constructor(found: Uint8Array) {
    const hex = Buffer.from(found.subarray(0, 4)).toString('hex');
    super(
      `The connection begins with ${hex || 'nothing'} where HELLO has 4e41534d`,
      'Something other than a sidecar is at the other end; the connection is closed.',
      ABORT_PROTOCOL,
    );
  }
}

/** A HELLO whose fields contradict each other or the limits, or an answer that does not fit its question. */
export class LinkBadHelloError extends LinkError {
  readonly code = 'NASMIG_LINK_BAD_HELLO';
  constructor(what: string) {
    super(`HELLO is not valid: ${what}`, PEER_AT_FAULT, ABORT_PROTOCOL);
  }
}

/** The peer wants frames in versions this side does not speak. */
export class LinkVersionError extends LinkError {
  readonly code = 'NASMIG_LINK_VERSION';
  constructor(peerMin: number, peerMax: number, ownMin: number, ownMax: number) {
    super(
      `The peer speaks link versions ${peerMin}-${peerMax}, this sidecar ${ownMin}-${ownMax}`,
      'Upgrade the older of the two; a release speaks its own version and the two before it.',
      ABORT_VERSION,
    );
  }
}

/** The peer does not hold this migration's session key, or speaks of another migration. */
export class LinkProofError extends LinkError {
  readonly code = 'NASMIG_LINK_PROOF';
  constructor(what: string) {
    super(
      `The peer has not proved that it belongs to this migration: ${what}`,
      'The connection is closed; see in the operator log whether both sidecars were armed for the same migration.',
      ABORT_PROOF,
    );
  }
}

/** A frame is longer than its type allows. */
export class LinkFrameTooLargeError extends LinkError {
  readonly code = 'NASMIG_LINK_FRAME_TOO_LARGE';
  constructor(frame: string, bytes: number, limit: number) {
    super(`A ${frame} frame announces ${bytes} bytes, the limit is ${limit}`, PEER_AT_FAULT, ABORT_PROTOCOL);
  }
}

/** Unknown type, unknown flags, reserved bytes that are not zero, fields that do not add up. */
export class LinkBadFrameError extends LinkError {
  readonly code = 'NASMIG_LINK_BAD_FRAME';
  constructor(frame: string, what: string) {
    super(`A ${frame} frame is not valid: ${what}`, PEER_AT_FAULT, ABORT_PROTOCOL);
  }
}

/** A frame that only the other side may send. */
export class LinkDirectionError extends LinkError {
  readonly code = 'NASMIG_LINK_DIRECTION';
  constructor(frame: string, receiver: string) {
    super(
      `A ${frame} frame came to the ${receiver}, which is the side that sends it`,
      PEER_AT_FAULT,
      ABORT_PROTOCOL,
    );
  }
}

/** A frame that is not allowed at this point: before HELLO, after END, a second HELLO. */
export class LinkFrameOrderError extends LinkError {
  readonly code = 'NASMIG_LINK_FRAME_ORDER';
  constructor(frame: string, when: string) {
    super(`A ${frame} frame came ${when}`, PEER_AT_FAULT, ABORT_PROTOCOL);
  }
}

/** A batch number, or an attempt at one, that was seen before or is not the next. */
export class LinkBatchOrderError extends LinkError {
  readonly code = 'NASMIG_LINK_BATCH_ORDER';
  constructor(number: number, attempt: number, expected: string) {
    super(
      `Batch ${number}, attempt ${attempt}, came where ${expected} was due`,
      PEER_AT_FAULT,
      ABORT_PROTOCOL,
    );
  }
}

/** Operations of a batch that leave the batch, the volume, or their own bytes. */
export class LinkBadOpsError extends LinkError {
  readonly code = 'NASMIG_LINK_BAD_OPS';
  constructor(batch: number, what: string) {
    super(`The operations of batch ${batch} are not valid: ${what}`, PEER_AT_FAULT, ABORT_PROTOCOL);
  }
}

/** Compressed bytes that are damaged, or whose length is not the announced one. */
export class LinkBadZstdError extends LinkError {
  readonly code = 'NASMIG_LINK_BAD_ZSTD';
  constructor(what: string, expectedBytes: number, reason: string) {
    super(`${what} do not decompress to ${expectedBytes} bytes: ${reason}`, PEER_AT_FAULT, ABORT_PROTOCOL);
  }
}

/** A PATCH that does not fit the batch it corrects. */
export class LinkBadPatchError extends LinkError {
  readonly code = 'NASMIG_LINK_BAD_PATCH';
  constructor(batch: number, what: string) {
    super(`A PATCH for batch ${batch} is not valid: ${what}`, PEER_AT_FAULT, ABORT_PROTOCOL);
  }
}

/** A RESEND that does not fit the batch it asks for. */
export class LinkBadResendError extends LinkError {
  readonly code = 'NASMIG_LINK_BAD_RESEND';
  constructor(batch: number, what: string) {
    super(`A RESEND for batch ${batch} is not valid: ${what}`, PEER_AT_FAULT, ABORT_PROTOCOL);
  }
}

/** Bytes were pushed into a reader that has already thrown, or from within its own sink. */
export class LinkReaderDeadError extends LinkError {
  readonly code = 'NASMIG_LINK_READER_DEAD';
  constructor(why: string) {
    super(
      `The frame reader takes no more bytes: ${why}`,
      'This is a fault of the sidecar; report it.',
      ABORT_INTERNAL,
    );
  }
}

/** The codec was asked to send what the protocol does not allow. */
export class LinkMisuseError extends LinkError {
  readonly code = 'NASMIG_LINK_MISUSE';
  constructor(what: string) {
    super(`Cannot build a frame: ${what}`, 'This is a fault of the sidecar; report it.', ABORT_INTERNAL);
  }
}

/** A batch sent whole as literals still does not have its tag. */
export class LinkTagError extends LinkError {
  readonly code = 'NASMIG_LINK_TAG';
  constructor(batch: number, attempt: number) {
    super(
      `Batch ${batch} has a wrong tag after attempt ${attempt}, in which every page came over the link`,
      PEER_AT_FAULT,
      ABORT_TAG,
    );
  }
}

/** Nothing came from the peer for too long. */
export class LinkSilentError extends LinkError {
  readonly code = 'NASMIG_LINK_SILENT';
  constructor(silentMs: number, waitingFor: string) {
    super(
      `Nothing came from the other sidecar for ${(silentMs / 1000).toFixed(1)} s while ${waitingFor} was due`,
      'The connection is closed; see the log of the other sidecar and the state of the migration network.',
      ABORT_SILENT,
    );
  }
}

/** The peer gave up and said why. */
export class LinkPeerAbortError extends LinkError {
  readonly code = 'NASMIG_LINK_PEER_ABORT';
  readonly peerCode: number;
  constructor(peerCode: number, text: string) {
    super(
      `The other sidecar gave up with code ${peerCode}: ${text || 'no text'}`,
      'See its log; the codes are in docs/link-protocol.md.',
      ABORT_OTHER_CONNECTION,
    );
    this.peerCode = peerCode;
  }
}
