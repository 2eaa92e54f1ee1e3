// Errors of the interposer. Each has a stable code, the values involved, and the next step for who reads it.
// None of them may fail a migration: the caller goes on without acceleration.

/** Base of the interposer's errors; `code` is stable and may be matched on. */
export abstract class InterposerError extends Error {
  abstract readonly code: string;

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The UID of an announcement is not a UID; it would become part of a path. */
export class InvalidMigrationUidError extends InterposerError {
  readonly code = 'NASMIG_MIGRATION_UID_INVALID';
  readonly migrationUid: string;

  constructor(migrationUid: string) {
    super(
      `migration UID ${JSON.stringify(migrationUid.slice(0, 80))} is not a UUID in lower case; ` +
        'the announcement is ignored, check that operator and sidecar are of compatible versions',
    );
    this.migrationUid = migrationUid;
  }
}

/** The same migration was announced twice without the first announcement having ended. */
export class AlreadyArmedError extends InterposerError {
  readonly code = 'NASMIG_ALREADY_ARMED';
  readonly migrationUid: string;

  constructor(migrationUid: string) {
    super(`migration ${migrationUid} is armed already; end it before it is armed again`);
    this.migrationUid = migrationUid;
  }
}

/** A migration was announced to an interposer that has given everything back: nobody would give this one back. */
export class InterposerStoppedError extends InterposerError {
  readonly code = 'NASMIG_INTERPOSER_STOPPED';
  readonly migrationUid: string;

  constructor(migrationUid: string) {
    super(`migration ${migrationUid} came while the sidecar stops; nothing to do, it stays plain`);
    this.migrationUid = migrationUid;
  }
}

/** The migration directory belongs to somebody else, so that no name in it can be replaced. */
export class DirectoryNotOursError extends InterposerError {
  readonly code = 'NASMIG_SOCKET_DIRECTORY_NOT_OURS';
  readonly directory: string;
  readonly ownerUid: number;
  readonly expectedUid: number;

  constructor(directory: string, ownerUid: number, expectedUid: number) {
    super(
      `${directory} belongs to uid ${ownerUid}, not to ${expectedUid}: virt-handler created it before this sidecar did; ` +
        'migrations of this pod stay plain, the next pod of the VM will be served',
    );
    this.directory = directory;
    this.ownerUid = ownerUid;
    this.expectedUid = expectedUid;
  }
}

/** The migration directory's name is taken by something that is no directory, or it cannot be created. */
export class DirectoryUnusableError extends InterposerError {
  readonly code = 'NASMIG_SOCKET_DIRECTORY_UNUSABLE';
  readonly directory: string;

  constructor(directory: string, reason: string, cause?: unknown) {
    super(
      `${directory} cannot be used: ${reason}; check that the pod's public volume is mounted at its parent`,
      { cause },
    );
    this.directory = directory;
  }
}

/** The path of a socket is longer than the kernel's address can hold. */
export class SocketPathTooLongError extends InterposerError {
  readonly code = 'NASMIG_SOCKET_PATH_TOO_LONG';
  readonly path: string;

  constructor(path: string, maxBytes: number) {
    super(
      `socket path ${path} has ${Buffer.byteLength(path)} bytes, the kernel allows ${maxBytes}; ` +
        'mount the socket directory at a shorter path',
    );
    this.path = path;
  }
}

/** The socket whose place was taken does not accept a connection. */
export class OriginalUnreachableError extends InterposerError {
  readonly code = 'NASMIG_ORIGINAL_UNREACHABLE';
  readonly path: string;
  readonly reason: string;
  readonly waitedMs: number;

  constructor(path: string, reason: string, waitedMs: number, cause?: unknown) {
    super(
      `${path} does not accept a connection (${reason}) after ${Math.round(waitedMs)} ms; its owner (virt-handler on a ` +
        'source, QEMU on a target) is gone or stuck, the migration fails and the VM stays on its source',
      { cause },
    );
    this.path = path;
    this.reason = reason;
    this.waitedMs = waitedMs;
  }
}
