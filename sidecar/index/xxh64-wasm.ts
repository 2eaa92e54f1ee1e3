// XXH64 as WebAssembly: the compiled module of the package xxhash-wasm, without the package's JavaScript, which takes one page a call
// and a view of it each time. Node reads it from the package's folder. The image has no such folder: there the bundle carries the bytes
// (hack/ship/compile.ts).
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const packageScript = createRequire(import.meta.url).resolve('xxhash-wasm');

export const xxh64Wasm: Uint8Array = readFileSync(join(dirname(packageScript), '../workerd/xxhash.wasm'));
