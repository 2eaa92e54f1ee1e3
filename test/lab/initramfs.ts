// Writes an initramfs: a cpio archive in the "newc" format (Linux documentation, driver-api/early-userspace/
// buffer-format), uncompressed, which the kernel unpacks fastest under emulation. Pure: entries in, bytes out.

export interface InitramfsEntry {
  /** Without leading slash; directories come before what is in them. */
  path: string;
  /** Permission bits. */
  mode: number;
  /** Null for a directory. */
  content: Buffer | null;
}

const DIRECTORY_TYPE = 0o040000;
const REGULAR_TYPE = 0o100000;

/** The archive of `entries`, with the character device `dev/console` that the kernel opens for PID 1. */
export function buildInitramfs(entries: readonly InitramfsEntry[]): Buffer {
  const parts: Buffer[] = [];
  let inode = 1;
  const add = (path: string, mode: number, content: Buffer, device: [number, number]): void => {
    const name = Buffer.from(`${path}\0`);
    const fields = [
      inode++,
      mode,
      0, // uid
      0, // gid
      1, // links
      0, // time of change
      content.length,
      0, // device of the file, major and minor
      0,
      ...device,
      name.length,
      0, // checksum, not used in this format
    ];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    parts.push(padded(Buffer.concat([Buffer.from(header), name])), padded(content));
  };
  const nothing = Buffer.alloc(0);
  add('dev', DIRECTORY_TYPE | 0o755, nothing, [0, 0]);
  add('dev/console', 0o020600, nothing, [5, 1]);
  for (const entry of entries) {
    const type = entry.content === null ? DIRECTORY_TYPE : REGULAR_TYPE;
    add(entry.path, type | entry.mode, entry.content ?? nothing, [0, 0]);
  }
  add('TRAILER!!!', 0, nothing, [0, 0]);
  return Buffer.concat(parts);
}

/** Names and contents are padded to a multiple of four bytes. */
function padded(bytes: Buffer): Buffer {
  const rest = bytes.length % 4;
  return rest === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(4 - rest)]);
}
