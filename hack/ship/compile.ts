// Bundles a program for the image: one JavaScript file with a few parts that are loaded when they are needed. In source form the
// sidecar would cost every pod 47 MB resident more: Node's type stripper stays loaded (37 MB), and so does all of a library of which
// little is used (10 MB). Run as a program: node hack/ship/compile.ts operator|sidecar DESTINATION

import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type Plugin, rolldown } from 'rolldown';
import { xxh64Wasm } from '../../sidecar/index/xxh64-wasm.ts';
import { repositoryRoot } from './tools.ts';

export type ImageProgram = 'operator' | 'sidecar';

/** What ws would take if it were installed; it does without. */
const OPTIONAL = ['bufferutil', 'utf-8-validate'];

/** What this module reads from a package's folder, which the image has not, becomes part of the bundle. */
const xxh64InBundle: Plugin = {
  name: 'xxh64-in-bundle',
  load: {
    filter: { id: /\/sidecar\/index\/xxh64-wasm\.ts$/ },
    handler: () =>
      `export const xxh64Wasm = Buffer.from('${Buffer.from(xxh64Wasm).toString('base64')}', 'base64');`,
  },
};

/** A source with one character that is not Latin takes two bytes for each of its characters in V8's memory. What is left of them is in literals. */
const latinOnly: Plugin = {
  name: 'latin-only',
  // Not earlier: what writes the final code resolves escapes.
  generateBundle: (_, parts) => {
    for (const part of Object.values(parts)) if (part.type === 'chunk') part.code = escapeNonLatin(part.code);
  },
};

function escapeNonLatin(code: string): string {
  const escaped = (character: string): string =>
    `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return code.replace(/[\u0100-\uffff]/g, escaped);
}

/** Writes `main.js` and its parts into `destination`; nothing else is needed to run it. Returns its path. */
export async function compileProgram(program: ImageProgram, destination: string): Promise<string> {
  const bundle = await rolldown({
    input: path.join(repositoryRoot, program, 'main.ts'),
    platform: 'node',
    external: [/^node:/, ...OPTIONAL],
    plugins: [xxh64InBundle, latinOnly],
  });
  // Not minified: a stack in a log is to be read. Without comments, for V8 keeps the source as long as the process lives.
  await bundle.write({ dir: destination, format: 'esm', entryFileNames: 'main.js', comments: false });
  await bundle.close();
  await writeFile(path.join(destination, 'package.json'), '{ "type": "module", "private": true }\n');
  return path.join(destination, 'main.js');
}

if (import.meta.main) {
  const [program, destination] = process.argv.slice(2);
  if ((program !== 'operator' && program !== 'sidecar') || destination === undefined)
    throw new Error('usage: node hack/ship/compile.ts operator|sidecar DESTINATION');
  console.log(await compileProgram(program, path.resolve(destination)));
}
