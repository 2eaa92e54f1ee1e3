// Writes the sidecar as JavaScript, for the image: Node's own type stripping is convenient, but the stripper stays loaded and
// costs 37 MB resident in every pod. Types are erased in place (so lines and columns stay those of the source), and imports
// of `.ts` become `.js`. Run as a program: node sidecar/compile.ts DESTINATION

import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { stripTypeScriptTypes } from 'node:module';
import { dirname, join, resolve } from 'node:path';

const ROOT = resolve(import.meta.dirname, '..');
/** What the sidecar's process imports lies in these. */
const FOLDERS = ['sidecar', 'control'];
/** Test code, by name; nothing that runs in a pod imports it. */
const TEST_CODE = /(\.test\.ts$|^test-|^example-|^link-samples|^memory-volume|^compile\.ts$)/;
const IMPORTED = /(from\s+|import\s*\(\s*|import\s+)(['"])(\.{1,2}\/[^'"]+)\.ts\2/g;

/** Writes `sidecar/` and `control/` as JavaScript below `destination`, and a package.json that makes them ES modules. */
export async function compileSidecar(destination: string): Promise<{ files: number }> {
  let files = 0;
  for (const folder of FOLDERS) {
    const entries = await readdir(join(ROOT, folder), { recursive: true, withFileTypes: true });
    for (const entry of entries) {
      if (!entry.isFile() || !entry.name.endsWith('.ts') || TEST_CODE.test(entry.name)) continue;
      const from = join(entry.parentPath, entry.name);
      const source = await readFile(from, 'utf8');
      const code = stripTypeScriptTypes(source).replace(IMPORTED, '$1$2$3.js$2');
      const to = join(destination, from.slice(ROOT.length + 1).replace(/\.ts$/, '.js'));
      await mkdir(dirname(to), { recursive: true });
      await writeFile(to, code);
      files += 1;
    }
  }
  await writeFile(join(destination, 'package.json'), '{ "type": "module", "private": true }\n');
  return { files };
}

if (import.meta.main) {
  const [destination] = process.argv.slice(2);
  if (destination === undefined) throw new Error('usage: node sidecar/compile.ts DESTINATION');
  const { files } = await compileSidecar(resolve(destination));
  console.log(`${files} files written to ${destination}`);
}
