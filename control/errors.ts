// Errors of the control protocol: what a peer said that cannot be accepted, and why. Each has a stable code,
// the values involved, and the next step, so that a log line suffices to act. See docs/control-protocol.md.

/** A message that is not JSON, has an unknown type, or breaks its schema. The connection it came on is closed. */
export class ControlMessageError extends Error {
  readonly code = 'NASMIG_CONTROL_MESSAGE';
  readonly direction: 'sidecar-to-hub' | 'hub-to-sidecar';

  constructor(direction: 'sidecar-to-hub' | 'hub-to-sidecar', problem: string) {
    super(
      `control message (${direction}) refused: ${problem}; the connection is closed. ` +
        'Check that operator and sidecar images are of releases that support each other.',
    );
    this.name = 'ControlMessageError';
    this.direction = direction;
  }
}

/** A message longer than {@link MAX_MESSAGE_BYTES}. Refused before it is parsed. */
export class ControlMessageTooLargeError extends Error {
  readonly code = 'NASMIG_CONTROL_TOO_LARGE';

  constructor(bytes: number, limit: number) {
    super(
      `control message of ${bytes} bytes is over the limit of ${limit}; the connection is closed. ` +
        'A VM with more volumes than the protocol allows must list fewer of them in its policy.',
    );
    this.name = 'ControlMessageTooLargeError';
  }
}
