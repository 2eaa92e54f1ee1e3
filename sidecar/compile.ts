// Bundles the sidecar for the image: one JavaScript program with a few parts that are loaded when they are needed. In source
// form it would cost every pod 47 MB resident more: Node's type stripper stays loaded (37 MB), and so does all of a library of
// which little is used (10 MB). Run as a program: node sidecar/compile.ts DESTINATION

import { writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { rolldown } from 'rolldown';

/** What ws would take if it were installed; it does without. */
const OPTIONAL = ['bufferutil', 'utf-8-validate'];

/** Writes `main.js` and its parts into `destination`; nothing else is needed to run it. Returns its path. */
export async function compileSidecar(destination: string): Promise<string> {
  const bundle = await rolldown({
    input: join(import.meta.dirname, 'main.ts'),
    platform: 'node',
    external: [/^node:/, ...OPTIONAL],
  });
  // Not minified: a stack in a log is to be read.
  await bundle.write({ dir: destination, format: 'esm', entryFileNames: 'main.js' });
  await bundle.close();
  await writeFile(join(destination, 'package.json'), '{ "type": "module", "private": true }\n');
  return join(destination, 'main.js');
}

if (import.meta.main) {
  const [destination] = process.argv.slice(2);
  if (destination === undefined) throw new Error('usage: node sidecar/compile.ts DESTINATION');
  console.log(await compileSidecar(resolve(destination)));
}
