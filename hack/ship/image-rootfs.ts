// Assembles the file system of the image: Node with the libraries it is linked to, the operator and the sidecar as bundles, users,
// licences and a bill of materials. Nothing else: no shell, no package manager, no package folder. The Dockerfile runs this and
// copies the result onto an empty base; the tests run the same result with an OCI runtime.
//   node hack/ship/image-rootfs.ts DESTINATION
// The same sources and the same Node give the same bytes: names are sorted, times are SOURCE_DATE_EPOCH (default 0).
import { execFile } from 'node:child_process';
import {
  chmod,
  cp,
  lutimes,
  mkdir,
  readdir,
  readFile,
  realpath,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { billOfMaterials, productionPackages } from './bill-of-materials.ts';
import { compileProgram } from './compile.ts';
import { repositoryRoot } from './tools.ts';

const run = promisify(execFile);

/** Where Node lies in the image; also the entry point. */
export const NODE_IN_IMAGE = 'usr/bin/node';
const LDD_TIMEOUT_MS = 30_000;

/** `nonroot` runs the operator; `qemu` is KubeVirt's user, as whom injected sidecars run. */
const PASSWD = [
  'root:x:0:0:root:/:/none',
  'qemu:x:107:107:qemu:/:/none',
  'nonroot:x:65532:65532:nonroot:/:/none',
  '',
];
const GROUP = ['root:x:0:', 'qemu:x:107:', 'nonroot:x:65532:', ''];

/** Writes the file system into `destination`, which is emptied first. */
export async function assembleRootfs(destination: string): Promise<void> {
  const root = path.resolve(destination);
  const inRoot = (...parts: string[]) => path.join(root, ...parts);
  await rm(root, { recursive: true, force: true });
  await mkdir(inRoot('app'), { recursive: true });
  await copyNode(root);
  await compileProgram('sidecar', inRoot('app', 'sidecar'));
  await compileProgram('operator', inRoot('app', 'operator'));
  await mkdir(inRoot('etc'), { recursive: true });
  await writeFile(inRoot('etc', 'passwd'), PASSWD.join('\n'));
  await writeFile(inRoot('etc', 'group'), GROUP.join('\n'));
  // DNS after the hosts file, where a C library without this file would not look at it.
  await writeFile(inRoot('etc', 'nsswitch.conf'), 'hosts: files dns\n');
  await cp(path.join(repositoryRoot, 'LICENSE'), inRoot('app', 'LICENSE'));
  await writeFile(inRoot('app', 'THIRD-PARTY-LICENSES'), await thirdPartyLicences());
  await writeFile(
    inRoot('app', 'sbom.cdx.json'),
    `${JSON.stringify(await billOfMaterials(), undefined, 2)}\n`,
  );
  await settle(root, Number(process.env['SOURCE_DATE_EPOCH'] ?? 0));
}

/** Node and every library the loader would load with it, at the same places. */
async function copyNode(root: string): Promise<void> {
  const node = await realpath(process.execPath);
  await copyFile(node, path.join(root, NODE_IN_IMAGE));
  const { stdout } = await run('ldd', [node], { timeout: LDD_TIMEOUT_MS });
  for (const library of linkedLibraries(stdout)) {
    await copyFile(await realpath(library), path.join(root, library));
  }
}

/** Paths in what `ldd` prints; the kernel's own linux-vdso has none. */
export function linkedLibraries(ldd: string): string[] {
  const paths = ldd.split('\n').flatMap((line) => /(?:=> |^\s+)(\/\S+) \(0x/.exec(line)?.[1] ?? []);
  return [...new Set(paths)].sort();
}

async function copyFile(from: string, to: string): Promise<void> {
  await mkdir(path.dirname(to), { recursive: true });
  await cp(from, to, { dereference: true });
}

/** The licence texts of what is bundled, which their licences ask to be passed on. */
async function thirdPartyLicences(): Promise<string> {
  const texts: string[] = [];
  for (const { name, version, directory } of await productionPackages()) {
    const files = (await readdir(directory))
      .filter((file) => /^(licen[cs]e|notice|copying)/i.test(file))
      .sort();
    const contents = await Promise.all(files.map((file) => readFile(path.join(directory, file), 'utf8')));
    texts.push(`== ${name} ${version}\n\n${contents.join('\n')}`);
  }
  return texts.join('\n\n');
}

/** Modes by kind and one time for all, so that the same content gives the same layer. */
async function settle(directory: string, epochSeconds: number): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const file = path.join(directory, entry.name);
    if (entry.isDirectory()) await settle(file, epochSeconds);
    else {
      const { mode } = await stat(file);
      await chmod(file, (mode & 0o111) === 0 ? 0o644 : 0o755);
      await lutimes(file, epochSeconds, epochSeconds);
    }
  }
  await chmod(directory, 0o755);
  await lutimes(directory, epochSeconds, epochSeconds);
}

if (import.meta.main) {
  const [destination] = process.argv.slice(2);
  if (destination === undefined) {
    console.error('usage: node hack/ship/image-rootfs.ts DESTINATION');
    process.exit(2);
  }
  await assembleRootfs(destination);
}
