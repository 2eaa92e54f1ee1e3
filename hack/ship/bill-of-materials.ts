// What the image is made of, as a CycloneDX document: Node and the npm packages that are not for development only, with the
// versions, licences and checksums of package-lock.json. Format: CycloneDX 1.6 JSON.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { repositoryRoot } from './tools.ts';

const lockSchema = z.object({
  name: z.string(),
  version: z.string(),
  packages: z.record(
    z.string(),
    z.object({
      version: z.string().optional(),
      license: z.string().optional(),
      integrity: z.string().optional(),
      dev: z.boolean().optional(),
      optional: z.boolean().optional(),
      peer: z.boolean().optional(),
    }),
  ),
});

export interface ProductionPackage {
  readonly name: string;
  readonly version: string;
  readonly license: string | undefined;
  /** Subresource integrity of the package's archive, `sha512-…`. */
  readonly integrity: string | undefined;
  /** Where it is installed. */
  readonly directory: string;
}

async function readLock(): Promise<z.infer<typeof lockSchema>> {
  return lockSchema.parse(JSON.parse(await readFile(path.join(repositoryRoot, 'package-lock.json'), 'utf8')));
}

/** Installed npm packages that programs of the image may contain, by name; Node's own package is among them. */
export async function productionPackages(): Promise<ProductionPackage[]> {
  const { packages } = await readLock();
  return Object.entries(packages)
    .filter(([location, { dev, optional }]) => location !== '' && dev !== true && optional !== true)
    .map(([location, { version = '', license, integrity }]) => ({
      name: location.slice(location.lastIndexOf('node_modules/') + 'node_modules/'.length),
      version,
      license,
      integrity,
      directory: path.join(repositoryRoot, location),
    }))
    .sort((one, other) => (one.name < other.name ? -1 : 1));
}

/** The document. It carries no time and no random number: the same lock file gives the same document. */
export async function billOfMaterials(): Promise<object> {
  const { name, version } = await readLock();
  return {
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: { component: { type: 'application', name, version } },
    components: (await productionPackages()).map((one) => ({
      type: 'library',
      name: one.name,
      version: one.version,
      purl: `pkg:npm/${one.name.replace('@', '%40')}@${one.version}`,
      ...(one.license === undefined ? {} : { licenses: [{ expression: one.license }] }),
      ...hashes(one.integrity),
    })),
  };
}

function hashes(integrity: string | undefined): object {
  const match = /^sha512-(.+)$/.exec(integrity ?? '');
  if (match?.[1] === undefined) return {};
  return { hashes: [{ alg: 'SHA-512', content: Buffer.from(match[1], 'base64').toString('hex') }] };
}
