// Names of the sockets in a virt-launcher's migration directory, and of what the interposer puts beside them.
// virt-handler and libvirt agree on `<vmim uid>-49152-source.sock` for QEMU's stream, `<uid>-source.sock` for
// libvirt's RPC and `<uid>-49153-source.sock` for NBD; only the first of them is ever touched.
// Described in kubevirt.md, 1 and 3.

import { InvalidMigrationUidError } from './errors.ts';

/** A VMIM's UID as the API server makes it. Anything else would be a path chosen by somebody else. */
const MIGRATION_UID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** libvirt's "direct migration" port, which KubeVirt uses as a key in the name although no port is open. */
const STREAM_SUFFIX = '-49152-source.sock';
const RPC_SUFFIX = '-source.sock';
const ORIGINAL_SUFFIX = '.orig';
const MARK_SUFFIX = '.nasmig';
const TEMPORARY_PREFIX = '.nasmig-';

/** The names that matter for one migration; all are relative to the directory. */
export interface SocketNames {
  /** Where QEMU's stream connects to: the only name whose place is ever taken. */
  readonly stream: string;
  /** libvirt's RPC socket. Looked at (it is there on a source alone), never touched. */
  readonly rpc: string;
  /** A hard link to the socket whose place was taken. */
  readonly original: string;
  /** A hard link to our own socket: it proves, after a crash too, which socket at `stream` is ours. */
  readonly mark: string;
}

/** Names for a migration. Throws {@link InvalidMigrationUidError} for anything that is not a UID. */
export function socketNames(migrationUid: string): SocketNames {
  if (!MIGRATION_UID.test(migrationUid)) throw new InvalidMigrationUidError(migrationUid);
  const stream = migrationUid + STREAM_SUFFIX;
  return {
    stream,
    rpc: migrationUid + RPC_SUFFIX,
    original: stream + ORIGINAL_SUFFIX,
    mark: stream + MARK_SUFFIX,
  };
}

/** Name for a socket that is bound before its place is free; `unique` keeps two of them apart. */
export function temporaryName(unique: string): string {
  return TEMPORARY_PREFIX + unique;
}

/** What a name in the directory means to a starting interposer that remembers nothing. */
export type Leaving =
  | { readonly kind: 'temporary'; readonly name: string }
  | { readonly kind: 'swap'; readonly migrationUid: string };

/** Recognises what a predecessor left; undefined for every name that is not the interposer's own. */
export function recognizeLeaving(name: string): Leaving | undefined {
  if (name.startsWith(TEMPORARY_PREFIX)) return { kind: 'temporary', name };
  for (const suffix of [STREAM_SUFFIX + ORIGINAL_SUFFIX, STREAM_SUFFIX + MARK_SUFFIX]) {
    if (!name.endsWith(suffix)) continue;
    const migrationUid = name.slice(0, -suffix.length);
    if (MIGRATION_UID.test(migrationUid)) return { kind: 'swap', migrationUid };
  }
  return undefined;
}
