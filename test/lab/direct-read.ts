// As a program, `node direct-read.ts <file> <offset> <bytes>`: reads with O_DIRECT, as the target sidecar does, and
// prints what was read. As 107 in a node it shows what a sidecar can read there, uncached.

import { constants, open } from 'node:fs/promises';
import { parseArgs } from 'node:util';

/** The part of the WebAssembly API used here; Node's types leave it out. */
declare const WebAssembly: {
  Memory: new (descriptor: { initial: number }) => { readonly buffer: ArrayBuffer };
};

/** What O_DIRECT wants of memory, offset and length on any disk of today. */
const ALIGNMENT_BYTES = 4096;

/** Reads `bytes` at `offset`, both multiples of 4096. Throws the system's error, RangeError for a short read. */
export async function readDirect(path: string, offset: number, bytes: number): Promise<Uint8Array> {
  const file = await open(path, constants.O_RDONLY | constants.O_DIRECT);
  try {
    // A WebAssembly memory begins on a page; a Buffer need not.
    const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65_536) });
    const target = new Uint8Array(memory.buffer, 0, bytes);
    const { bytesRead } = await file.read(target, 0, bytes, offset);
    if (bytesRead !== bytes) throw new RangeError(`read ${bytesRead} of ${bytes} bytes at ${offset}`);
    return target;
  } finally {
    await file.close();
  }
}

if (import.meta.main) {
  const [path = '', offset, bytes] = parseArgs({ allowPositionals: true }).positionals;
  process.stdout.write(await readDirect(path, Number(offset ?? 0), Number(bytes ?? ALIGNMENT_BYTES)));
}
