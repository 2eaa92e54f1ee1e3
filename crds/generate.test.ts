import { load } from 'js-yaml';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { customResourceDefinitions } from './definitions.ts';
import { generatedFiles, outdatedFiles } from './generate.ts';
import { toStructuralSchema, UnstructuralSchemaError } from './structural-schema.ts';

describe('generated resources', () => {
  it('are what the schemas say', async () => {
    expect(await outdatedFiles()).toEqual([]);
  });

  it('keep every field in the files, also those that only an API server reads', () => {
    const files = generatedFiles();
    for (const [name, definition] of customResourceDefinitions()) {
      expect(load(files.get(`crds/${name}.yaml`) ?? '')).toEqual(JSON.parse(JSON.stringify(definition)));
    }
    expect([...files.values()].join('')).toContain('x-kubernetes-int-or-string: true');
  });

  it('have the names that the documentation promises', () => {
    const definitions = customResourceDefinitions();
    expect([...definitions.keys()]).toEqual([
      'nasmigration.io_nasawaremigrations',
      'nasmigration.io_nasmigrationpolicies',
    ]);
    const migration = definitions.get('nasmigration.io_nasawaremigrations');
    expect(migration?.spec.names.shortNames).toEqual(['nam']);
    expect(migration?.spec.scope).toBe('Namespaced');
    expect(migration?.spec.versions[0]?.subresources).toEqual({ status: {} });
  });

  it.each([
    ['a string', z.object({ field: z.string() })],
    ['a list', z.object({ field: z.array(z.string().max(3)) })],
    ['a map', z.object({ field: z.record(z.string(), z.string().max(3)) })],
    ['anything', z.object({ field: z.unknown() })],
  ])('refuse %s without a bound', (_what, schema) => {
    expect(() => toStructuralSchema(schema)).toThrow(UnstructuralSchemaError);
  });
});
