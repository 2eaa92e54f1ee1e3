// The corpus: recorded inputs, one zstd file each in corpus/<name>/. record-corpus.ts makes them.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';

/** Far above any recording here. */
const MAX_RECORDING_BYTES = 1024 * 1024;

export const CORPUS_DIRECTORY = join(import.meta.dirname, 'corpus');

/** The recordings of `name`, in the order of their file names. Throws when there are none: a fuzzer without them starts blind. */
export function readCorpus(name: string | undefined): Uint8Array[] {
  if (name === undefined) return [];
  const directory = join(CORPUS_DIRECTORY, name);
  const files = readdirSync(directory).filter((file) => file.endsWith('.zst'));
  if (files.length === 0)
    throw new Error(`${directory} is empty; node test/fuzz/record-corpus.ts --states fills it`);
  return files
    .sort()
    .map((file) =>
      zstdDecompressSync(readFileSync(join(directory, file)), { maxOutputLength: MAX_RECORDING_BYTES }),
    );
}
