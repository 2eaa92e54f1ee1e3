// A gzipped tar archive in memory: POSIX ustar headers (IEEE Std 1003.1, pax, "ustar Interchange Format"), regular files only. Pure.
import { gzipSync } from 'node:zlib';

const BLOCK = 512;
const MAX_NAME = 100;
const MAX_PREFIX = 155;

export interface ArchiveFile {
  path: string;
  text: string;
}

/** All files under one folder, owned by nobody in particular, readable by their owner alone. */
export function archive(folder: string, files: readonly ArchiveFile[], nowMs: number): Buffer {
  const parts: Buffer[] = [];
  for (const { path, text } of files) {
    const body = Buffer.from(text);
    parts.push(header(`${folder}/${path}`, body.length, Math.floor(nowMs / 1000)), body);
    const rest = body.length % BLOCK;
    if (rest !== 0) parts.push(Buffer.alloc(BLOCK - rest));
  }
  // Two empty blocks are the end.
  parts.push(Buffer.alloc(2 * BLOCK));
  return gzipSync(Buffer.concat(parts));
}

function header(path: string, bytes: number, seconds: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  const { prefix, name } = split(path);
  const octal = (value: number, width: number) => `${value.toString(8).padStart(width - 1, '0')}\0`;
  block.write(name, 0, MAX_NAME, 'utf8');
  block.write(octal(0o600, 8), 100);
  block.write(octal(0, 8), 108);
  block.write(octal(0, 8), 116);
  block.write(octal(bytes, 12), 124);
  block.write(octal(seconds, 12), 136);
  // The checksum is summed with blanks in its own place.
  block.write('        ', 148);
  block.write('0', 156);
  block.write('ustar\u000000', 257);
  block.write(prefix, 345, MAX_PREFIX, 'utf8');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

/** A long path is cut at a slash into two fields; names of Kubernetes fit, whatever does not is cut. */
function split(path: string): { prefix: string; name: string } {
  if (Buffer.byteLength(path) <= MAX_NAME) return { prefix: '', name: path };
  for (let at = path.indexOf('/'); at !== -1; at = path.indexOf('/', at + 1)) {
    const prefix = path.slice(0, at);
    const name = path.slice(at + 1);
    if (Buffer.byteLength(name) <= MAX_NAME && Buffer.byteLength(prefix) <= MAX_PREFIX)
      return { prefix, name };
  }
  return { prefix: path.slice(0, MAX_PREFIX), name: path.slice(-MAX_NAME) };
}
