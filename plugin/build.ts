// Builds the plugin: one executable file with everything in it, for this machine's kind of system (docs/adr/0010).
//   node plugin/build.ts DESTINATION            kubectl-nasmig, kubectl_complete-nasmig and licences
//   node plugin/build.ts DESTINATION --archive  also the .tar.gz that krew downloads, and a manifest that names its digest
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { dump, load } from 'js-yaml';
import { rolldown } from 'rolldown';
import { KUBECTL_COMPLETER, scripts } from './completion/scripts.ts';
import { RELEASE } from './version/release.ts';

const run = promisify(execFile);

const PROGRAM = 'kubectl-nasmig';
const LICENCES = 'THIRD-PARTY-LICENSES';
/** Optional native parts of libraries, which do without. */
const OPTIONAL = ['bufferutil', 'utf-8-validate'];
const BUILD_TIMEOUT_MS = 120_000;
const repositoryRoot = path.resolve(import.meta.dirname, '..');
const manifestTemplate = path.join(import.meta.dirname, 'krew', 'nasmig.yaml');

/** The plugin could not be built. */
export class PluginBuildError extends Error {
  readonly code = 'NASMIG_PLUGIN_BUILD';

  constructor(problem: string) {
    super(
      `kubectl-nasmig could not be built: ${problem}\nIt needs the project's own Node: hack/setup.sh node.`,
    );
    this.name = 'PluginBuildError';
  }
}

/** All of the plugin as one JavaScript file; any Node of the project's version runs it. Returns the folders of packages in it. */
export async function bundlePlugin(file: string): Promise<string[]> {
  const bundle = await rolldown({
    input: path.join(import.meta.dirname, 'main.ts'),
    platform: 'node',
    external: [/^node:/, ...OPTIONAL],
  });
  // Not minified: a stack in a report is to be read.
  const { output } = await bundle.write({ file, format: 'esm', codeSplitting: false });
  await bundle.close();
  const modules = output.flatMap((part) => (part.type === 'chunk' ? part.moduleIds : []));
  const folders = modules.flatMap(
    (module) => /^(.*[/\\]node_modules[/\\](?:@[^/\\]+[/\\])?[^/\\]+)[/\\]/.exec(module)?.[1] ?? [],
  );
  return [...new Set(folders)].sort();
}

/** What is bundled, and Node itself, with their licences: who passes the program on passes these on. */
async function thirdPartyLicences(folders: readonly string[]): Promise<string> {
  const texts: string[] = [];
  const node = path.join(repositoryRoot, 'node_modules', 'node');
  for (const folder of [...folders, node]) {
    const { name, version, license } = JSON.parse(
      await readFile(path.join(folder, 'package.json'), 'utf8'),
    ) as {
      name: string;
      version: string;
      license?: string;
    };
    const files = (await readdir(folder)).filter((file) => /^(licen[cs]e|notice|copying)/i.test(file)).sort();
    const contents = await Promise.all(files.map((file) => readFile(path.join(folder, file), 'utf8')));
    texts.push(`== ${name} ${version} (${license ?? 'see below'})\n\n${contents.join('\n')}`);
  }
  return texts.join('\n\n');
}

/** Writes `kubectl-nasmig` and `kubectl_complete-nasmig` into the folder; the path of the first. Throws {@link PluginBuildError}. */
export async function buildPlugin(destination: string): Promise<string> {
  await mkdir(destination, { recursive: true });
  const working = await mkdtemp(path.join(destination, '.building-'));
  const program = path.join(destination, PROGRAM);
  try {
    const bundle = path.join(working, 'main.mjs');
    await writeFile(path.join(destination, LICENCES), await thirdPartyLicences(await bundlePlugin(bundle)));
    const settings = path.join(working, 'single-executable.json');
    const built = path.join(working, PROGRAM);
    await writeFile(
      settings,
      JSON.stringify({
        main: bundle,
        mainFormat: 'module',
        output: built,
        disableExperimentalSEAWarning: true,
      }),
    );
    await run(process.execPath, ['--build-sea', settings], { timeout: BUILD_TIMEOUT_MS });
    await chmod(built, 0o755);
    await rename(built, program);
  } catch (error) {
    throw new PluginBuildError(error instanceof Error ? error.message : String(error));
  } finally {
    await rm(working, { recursive: true, force: true });
  }
  const completer = path.join(destination, KUBECTL_COMPLETER);
  await writeFile(completer, scripts.kubectl);
  await chmod(completer, 0o755);
  return program;
}

/** The archive that krew downloads, and the manifest with its digest beside it. `platform`: as Node names it. */
export async function archivePlugin(
  destination: string,
  platform: NodeJS.Platform = process.platform,
  architecture = process.arch,
): Promise<{ archive: string; manifest: string; sha256: string }> {
  const arch = architecture === 'x64' ? 'amd64' : architecture;
  const archive = path.join(destination, `${PROGRAM}-${RELEASE}-${platform}-${arch}.tar.gz`);
  const licence = path.join(repositoryRoot, 'LICENSE');
  // The same bytes for the same program: no names of people or machines, no times.
  await run(
    'tar',
    [
      '--create',
      `--file=${archive}`,
      '--gzip',
      '--owner=0',
      '--group=0',
      '--numeric-owner',
      '--mtime=@0',
      '--mode=u=rwX,go=rX',
      `--directory=${destination}`,
      PROGRAM,
      KUBECTL_COMPLETER,
      LICENCES,
      `--directory=${path.dirname(licence)}`,
      'LICENSE',
    ],
    { timeout: BUILD_TIMEOUT_MS, env: { ...process.env, GZIP: '-n' } },
  );
  const sha256 = createHash('sha256')
    .update(await readFile(archive))
    .digest('hex');
  const manifest = path.join(destination, 'nasmig.yaml');
  const template = await readFile(manifestTemplate, 'utf8');
  const text = manifestFor(template, RELEASE, { [`${platform}-${arch}`]: sha256 });
  await writeFile(manifest, text);
  return { archive, manifest, sha256 };
}

interface KrewManifest {
  spec: { version: string; platforms: { sha256: string }[] };
}

/** The manifest for a release, with the platforms that were built: krew refuses one without a digest. `digests`: by platform. */
export function manifestFor(
  template: string,
  release: string,
  digests: Readonly<Record<string, string>>,
): string {
  let text = template.replaceAll('{{version}}', release);
  for (const [platform, sha256] of Object.entries(digests))
    text = text.replaceAll(`{{sha256 ${platform}}}`, sha256);
  const manifest = load(text) as KrewManifest;
  const platforms = manifest.spec.platforms.filter(({ sha256 }) => !sha256.includes('{{'));
  return dump({ ...manifest, spec: { ...manifest.spec, platforms } }, { lineWidth: -1 });
}

if (import.meta.main) {
  const [destination, option] = process.argv.slice(2);
  if (destination === undefined || (option !== undefined && option !== '--archive')) {
    console.error('usage: node plugin/build.ts DESTINATION [--archive]');
    process.exit(2);
  }
  console.log(await buildPlugin(path.resolve(destination)));
  if (option === '--archive') {
    const { archive, manifest } = await archivePlugin(path.resolve(destination));
    console.log(`${archive}\n${manifest}`);
  }
}
