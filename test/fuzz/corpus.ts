// The corpus: recorded inputs, one zstd file each in corpus/<name>/. record-corpus.ts makes them.
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';

/** Far above any recording here. */
const MAX_RECORDING_BYTES = 1024 * 1024;
const ENDING = '.zst';

export const CORPUS_DIRECTORY = join(import.meta.dirname, 'corpus');

/** The recordings of `name`, in the order of their file names. Throws when there are none: a fuzzer without them starts blind. */
export function readCorpus(name: string | undefined): Uint8Array[] {
  return name === undefined ? [] : [...readNamedCorpus(name).values()];
}

/** The same by name of their files without the ending, e.g. `trixie-multifd-0`. */
export function readNamedCorpus(name: string): Map<string, Uint8Array> {
  const directory = join(CORPUS_DIRECTORY, name);
  const files = readdirSync(directory).filter((file) => file.endsWith(ENDING));
  if (files.length === 0)
    throw new Error(`${directory} is empty; node test/fuzz/record-corpus.ts --states fills it`);
  return new Map(
    files
      .sort()
      .map((file) => [
        basename(file, ENDING),
        zstdDecompressSync(readFileSync(join(directory, file)), { maxOutputLength: MAX_RECORDING_BYTES }),
      ]),
  );
}
