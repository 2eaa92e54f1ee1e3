// What can go wrong with the volumes on the NAS, each kind with a stable code. A NasError never means a wrong byte: it means that blocks
// were not read, and that the pages they stand for must come from the source instead.

export type NasErrorCode =
  | 'NASMIG_VOLUME_MISSING'
  | 'NASMIG_VOLUME_UNREADABLE'
  | 'NASMIG_VOLUME_EMPTY'
  | 'NASMIG_VOLUME_SHORT'
  | 'NASMIG_NAS_READ'
  | 'NASMIG_NAS_DEADLINE'
  | 'NASMIG_NAS_CLOSED';

export class NasError extends Error {
  readonly code: NasErrorCode;
  /** The volume's name. */
  readonly volume: string;
  constructor(code: NasErrorCode, volume: string, detail: string, cause?: unknown) {
    super(`volume ${volume}: ${detail}`, cause === undefined ? undefined : { cause });
    this.name = 'NasError';
    this.code = code;
    this.volume = volume;
  }
}

/** There is no such file. */
export class VolumeMissingError extends NasError {
  constructor(volume: string, path: string, cause?: unknown) {
    super(
      'NASMIG_VOLUME_MISSING',
      volume,
      `${path} is not there. Check the volume mounts of the sidecar.`,
      cause,
    );
    this.name = 'VolumeMissingError';
  }
}

/** The file is there but cannot be opened or read, or is not a plain file. */
export class VolumeUnreadableError extends NasError {
  constructor(volume: string, path: string, why: string, cause?: unknown) {
    super(
      'NASMIG_VOLUME_UNREADABLE',
      volume,
      `${path} cannot be read (${why}). Only raw files that the sidecar's user may read can be used.`,
      cause,
    );
    this.name = 'VolumeUnreadableError';
  }
}

/** The file holds no whole block. */
export class VolumeEmptyError extends NasError {
  constructor(volume: string, path: string, sizeBytes: number) {
    super(
      'NASMIG_VOLUME_EMPTY',
      volume,
      `${path} has ${sizeBytes} bytes, less than one block; nothing to read.`,
    );
    this.name = 'VolumeEmptyError';
  }
}

/** The volume ends before a block that it had when it was opened. */
export class VolumeShortError extends NasError {
  constructor(volume: string, position: number, wanted: number, got: number) {
    super(
      'NASMIG_VOLUME_SHORT',
      volume,
      `${got} of ${wanted} bytes at ${position}: the volume has become shorter. It is not used any more in this migration.`,
    );
    this.name = 'VolumeShortError';
  }
}

/** The operating system reported an error for a read. */
export class NasReadError extends NasError {
  constructor(volume: string, position: number, length: number, cause: Error) {
    super(
      'NASMIG_NAS_READ',
      volume,
      `reading ${length} bytes at ${position} failed: ${cause.message}`,
      cause,
    );
    this.name = 'NasReadError';
  }
}

/** A read was not finished in time. The kernel may still be at it. */
export class NasDeadlineError extends NasError {
  constructor(volume: string, what: string, deadlineMs: number) {
    super(
      'NASMIG_NAS_DEADLINE',
      volume,
      `${what} was not done within ${deadlineMs} ms; is the NAS reachable?`,
    );
    this.name = 'NasDeadlineError';
  }
}

/** The reader was closed with reads outstanding. */
export class NasClosedError extends NasError {
  constructor(volume: string) {
    super('NASMIG_NAS_CLOSED', volume, 'the reader was closed before the blocks were read');
    this.name = 'NasClosedError';
  }
}

/** A request names blocks that no volume has, or a destination that is too small. The peer or the caller is wrong; nothing was read. */
export class BlockRangeError extends Error {
  readonly code = 'NASMIG_BLOCK_RANGE';
  constructor(detail: string) {
    super(`${detail}. Nothing was read.`);
    this.name = 'BlockRangeError';
  }
}
