// The two CustomResourceDefinitions as objects: names, scope, printer columns, and the schemas of the files beside this one.
import type { V1CustomResourceColumnDefinition, V1CustomResourceDefinition } from '@kubernetes/client-node';
import type { z } from 'zod';
import { nasAwareMigrationSchema } from './nas-aware-migration.ts';
import { nasMigrationPolicySchema } from './nas-migration-policy.ts';
import { type StructuralSchema, toStructuralSchema } from './structural-schema.ts';

export const API_GROUP = 'nasmigration.io';
export const API_VERSION = 'v1alpha1';

interface Definition {
  kind: string;
  plural: string;
  singular: string;
  shortNames: string[];
  scope: 'Namespaced' | 'Cluster';
  schema: z.ZodType;
  columns: V1CustomResourceColumnDefinition[];
}

const age = { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' };

const definitions: Definition[] = [
  {
    kind: 'NasAwareMigration',
    plural: 'nasawaremigrations',
    singular: 'nasawaremigration',
    shortNames: ['nam'],
    scope: 'Namespaced',
    schema: nasAwareMigrationSchema,
    columns: [
      { name: 'VMI', type: 'string', jsonPath: '.spec.vmiName' },
      { name: 'Phase', type: 'string', jsonPath: '.status.phase' },
      {
        name: 'Accelerated',
        type: 'string',
        jsonPath: '.status.conditions[?(@.type=="Accelerated")].status',
      },
      { name: 'Progress', type: 'integer', jsonPath: '.status.progress.percent' },
      { name: 'Saved%', type: 'integer', jsonPath: '.status.result.savedPercent' },
      { name: 'Source', type: 'string', jsonPath: '.status.source.node', priority: 1 },
      { name: 'Target', type: 'string', jsonPath: '.status.target.node', priority: 1 },
      {
        name: 'Reason',
        type: 'string',
        jsonPath: '.status.conditions[?(@.type=="Accelerated")].reason',
        priority: 1,
      },
      age,
    ],
  },
  {
    kind: 'NasMigrationPolicy',
    plural: 'nasmigrationpolicies',
    singular: 'nasmigrationpolicy',
    shortNames: ['namp'],
    scope: 'Cluster',
    schema: nasMigrationPolicySchema,
    columns: [
      { name: 'Injection', type: 'string', jsonPath: '.spec.injection' },
      { name: 'Adoption', type: 'string', jsonPath: '.spec.adoption' },
      { name: 'Suspended', type: 'boolean', jsonPath: '.spec.suspend' },
      { name: 'VMIs', type: 'integer', jsonPath: '.status.selectedVirtualMachineInstances' },
      age,
    ],
  },
];

/** Every CRD of this project, by file name without extension. */
export function customResourceDefinitions(): Map<string, V1CustomResourceDefinition> {
  return new Map(
    definitions.map((definition) => [`${API_GROUP}_${definition.plural}`, toResource(definition)]),
  );
}

/** The schema of a kind's object, for the reference documentation. */
export function objectSchemas(): { kind: string; scope: string; schema: StructuralSchema }[] {
  return definitions.map(({ kind, scope, schema }) => ({ kind, scope, schema: toStructuralSchema(schema) }));
}

function toResource(definition: Definition): V1CustomResourceDefinition {
  const { kind, plural, singular, shortNames, scope } = definition;
  const schema = toStructuralSchema(definition.schema);
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${plural}.${API_GROUP}` },
    spec: {
      group: API_GROUP,
      scope,
      names: { kind, listKind: `${kind}List`, plural, singular, shortNames, categories: ['nasmigration'] },
      versions: [
        {
          name: API_VERSION,
          served: true,
          storage: true,
          additionalPrinterColumns: definition.columns,
          subresources: { status: {} },
          schema: {
            openAPIV3Schema: {
              ...schema,
              properties: {
                apiVersion: { type: 'string' },
                kind: { type: 'string' },
                metadata: { type: 'object' },
                ...schema.properties,
              },
            } as NonNullable<V1CustomResourceDefinition['spec']['versions'][0]['schema']>['openAPIV3Schema'] &
              object,
          },
        },
      ],
    },
  };
}
