// Finding NasAwareMigrations the way people name them: by their own name, or by the VM's. Pure but for the two look-ups at the end.

import { isFinished } from '../../operator/controller/decide.ts';
import { isNotFound } from '../../operator/kubernetes/api-client.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { isUnknownKind, PluginError } from '../errors.ts';
import type { ClusterClient } from './cluster-client.ts';
import { type Migration, type MigrationObject, readMigration } from './migration.ts';

/** `nam/move-db`, `vmi/db`, or only a name, which may be either. */
export interface Reference {
  kind: 'migration' | 'vmi' | 'either';
  name: string;
}

const KINDS: Record<string, Reference['kind']> = {
  nam: 'migration',
  nasawaremigration: 'migration',
  nasawaremigrations: 'migration',
  'nasawaremigration.nasmigration.io': 'migration',
  'nasawaremigrations.nasmigration.io': 'migration',
  vmi: 'vmi',
  vmis: 'vmi',
  vm: 'vmi',
  virtualmachineinstance: 'vmi',
  virtualmachineinstances: 'vmi',
  'virtualmachineinstance.kubevirt.io': 'vmi',
  'virtualmachineinstances.kubevirt.io': 'vmi',
};

/** Throws {@link PluginError} with exit `usage` for another kind. */
export function referenceOf(word: string): Reference {
  const slash = word.indexOf('/');
  if (slash === -1) return { kind: 'either', name: word };
  const kind = KINDS[word.slice(0, slash).toLowerCase()];
  const name = word.slice(slash + 1);
  if (kind === undefined || name === '')
    throw new PluginError(
      'usage',
      `${word} names neither a VMI nor a migration`,
      'Write vmi/NAME or nam/NAME.',
    );
  return { kind, name };
}

/** The migrations that a reference means: the one of that name, or all of that VM; the newest first. */
export function migrationsOf(reference: Reference, migrations: readonly Migration[]): Migration[] {
  if (reference.kind !== 'vmi') {
    const named = migrations.filter(({ name }) => name === reference.name);
    if (named.length > 0 || reference.kind === 'migration') return named;
  }
  return newestFirst(migrations.filter(({ spec }) => spec.vmiName === reference.name));
}

export function newestFirst(migrations: readonly Migration[]): Migration[] {
  return [...migrations].sort((a, b) => b.creationMs - a.creationMs || (a.name < b.name ? -1 : 1));
}

export function unfinished(migrations: readonly Migration[]): Migration[] {
  return migrations.filter(({ status }) => !isFinished(status));
}

/** `shop/move-db`, or `move-db` where the namespace goes without saying. */
export function titleOf(
  { namespace, name }: { namespace: string; name: string },
  withNamespace = true,
): string {
  return withNamespace ? `${namespace}/${name}` : name;
}

export function readAllMigrations(objects: readonly MigrationObject[]): Migration[] {
  return objects.flatMap((object) => readMigration(object) ?? []);
}

/** All migrations of a namespace, or of all. */
export async function listMigrations(
  api: ClusterClient,
  namespace: string | undefined,
  selector: string | undefined,
): Promise<{ objects: MigrationObject[]; migrations: Migration[] }> {
  const objects = await api.listAll<MigrationObject>(
    resources.nasAwareMigrations,
    namespace,
    selector === undefined ? {} : { labelSelector: selector },
  );
  return { objects, migrations: readAllMigrations(objects) };
}

/** Undefined when it is not there; other refusals are thrown, also that its kind is not known. */
export async function find<T>(looking: Promise<T>): Promise<T | undefined> {
  try {
    return await looking;
  } catch (error) {
    if (isNotFound(error) && !isUnknownKind(error)) return undefined;
    throw error;
  }
}
