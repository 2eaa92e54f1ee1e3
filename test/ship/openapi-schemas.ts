// JSON schemas of every kind an API server knows, in the files that kubeconform looks for, made from the server's own OpenAPI
// document (version 2). Strict: a field that a kind does not have is an error.
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';

export interface Schema {
  type?: string;
  format?: string;
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  items?: Schema;
  'x-kubernetes-group-version-kind'?: readonly { group: string; version: string; kind: string }[];
  'x-kubernetes-preserve-unknown-fields'?: boolean;
  [other: string]: unknown;
}

/** For `kubeconform -schema-location <directory>/{{.ResourceKind}}{{.KindSuffix}}.json`. */
export async function writeSchemas(
  definitions: Readonly<Record<string, Schema>>,
  directory: string,
): Promise<{ template: string; kinds: number }> {
  await mkdir(directory, { recursive: true });
  const strictDefinitions = Object.fromEntries(
    Object.entries(definitions).map(([name, definition]) => [name, strict(definition)]),
  );
  // One file with all definitions, to which the files of the kinds point.
  await writeFile(
    path.join(directory, 'definitions.json'),
    JSON.stringify({ definitions: strictDefinitions }),
  );
  let kinds = 0;
  for (const [name, definition] of Object.entries(definitions)) {
    for (const { group, version, kind } of definition['x-kubernetes-group-version-kind'] ?? []) {
      const file = `${kind.toLowerCase()}${suffix(group, version)}.json`;
      const reference = { $ref: `definitions.json#/definitions/${name}` };
      await writeFile(path.join(directory, file), JSON.stringify(reference));
      kinds += 1;
    }
  }
  return { template: `${directory}/{{.ResourceKind}}{{.KindSuffix}}.json`, kinds };
}

/** kubeconform's KindSuffix: the first part of the group, and the version. */
function suffix(group: string, version: string): string {
  const [first = ''] = group.split('.');
  return first === '' ? `-${version}` : `-${first}-${version}`;
}

/** OpenAPI's way to say "a number or a string" as JSON schema says it; objects closed. */
export function strict(schema: Schema): Schema {
  const { format, ...rest } = schema;
  if (schema.type === 'string' && format === 'int-or-string')
    return { anyOf: [{ type: 'string' }, { type: 'integer' }] };
  const result: Schema = { ...rest };
  if (schema.properties !== undefined) {
    result.properties = Object.fromEntries(
      Object.entries(schema.properties).map(([name, property]) => [name, strict(property)]),
    );
    if (schema.additionalProperties === undefined && schema['x-kubernetes-preserve-unknown-fields'] !== true)
      result.additionalProperties = false;
  }
  if (typeof schema.additionalProperties === 'object')
    result.additionalProperties = strict(schema.additionalProperties);
  if (schema.items !== undefined) result.items = strict(schema.items);
  return result;
}
