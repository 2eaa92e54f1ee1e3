// Objects as kubectl's `-o json|yaml|name` writes them. Pure.

import type { KubernetesObject } from '@kubernetes/client-node';
import { dump } from 'js-yaml';
import type { OutputFormat } from '../global-flags.ts';

/** A value as JSON or YAML, with a line's end. */
export function written(value: unknown, format: 'json' | 'yaml'): string {
  // Through JSON in both, because what is undefined is not there.
  const text = JSON.stringify(value, undefined, 4);
  return format === 'json' ? `${text}\n` : dump(JSON.parse(text), { noRefs: true, lineWidth: -1 });
}

/** One object, or a List of several. Server-side-apply's bookkeeping is left out, as kubectl does. */
export function objectsAs(
  objects: readonly KubernetesObject[],
  format: OutputFormat,
  asList: boolean,
): string {
  const clean = objects.map(withoutManagedFields);
  if (format === 'name') return clean.map((object) => `${nameOf(object)}\n`).join('');
  const [first] = clean;
  const value =
    asList || first === undefined
      ? { apiVersion: 'v1', kind: 'List', metadata: { resourceVersion: '' }, items: clean }
      : first;
  return written(value, format === 'yaml' ? 'yaml' : 'json');
}

/** `nasawaremigration.nasmigration.io/move-db`. */
export function nameOf({ apiVersion = '', kind = '', metadata }: KubernetesObject): string {
  const group = apiVersion.includes('/') ? `.${apiVersion.split('/')[0]}` : '';
  return `${kind.toLowerCase()}${group}/${metadata?.name ?? ''}`;
}

export function withoutManagedFields<T extends KubernetesObject>(object: T): T {
  if (object.metadata?.managedFields === undefined) return object;
  const { managedFields: _dropped, ...metadata } = object.metadata;
  return { ...object, metadata };
}
