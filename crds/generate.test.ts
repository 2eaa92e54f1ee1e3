import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { customResourceDefinitions } from './definitions.ts';
import { outdatedFiles } from './generate.ts';
import { toStructuralSchema, UnstructuralSchemaError } from './structural-schema.ts';

describe('generated resources', () => {
  it('are what the schemas say', async () => {
    expect(await outdatedFiles()).toEqual([]);
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
