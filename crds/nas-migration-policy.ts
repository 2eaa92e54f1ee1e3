// NasMigrationPolicy: which VMs get a sidecar, and how their migrations are treated, also those that a drain or
// `virtctl migrate` starts. Selectors and precedence are those of KubeVirt's MigrationPolicy.
import { z } from 'zod';
import {
  accelerationSchema,
  conditions,
  count,
  duration,
  labelMap,
  limitsSchema,
  objectName,
  quantity,
} from './fields.ts';
import { validated } from './structural-schema.ts';

export const nasMigrationPolicySpecSchema = z
  .object({
    selectors: z
      .object({
        namespaceSelector: labelMap('Labels the namespace must have.').optional(),
        virtualMachineInstanceSelector: labelMap('Labels the VirtualMachineInstance must have.').optional(),
      })
      .meta({
        description:
          'What the policy applies to. As with KubeVirt, an empty one ({}) selects every VM, and one that is left out selects none. ' +
          'Of several policies that select a VM, the one with more labels wins, then the one with more labels of the ' +
          'VirtualMachineInstance, then the first by name.',
      })
      .optional(),
    injection: z
      .enum(['Enabled', 'Disabled'])
      .default('Enabled')
      .meta({ description: 'Whether new virt-launcher pods of these VMs get a sidecar.' }),
    adoption: z
      .enum(['Enabled', 'Disabled'])
      .default('Enabled')
      .meta({ description: 'Whether migrations that others start are accelerated and recorded.' }),
    sidecar: z
      .object({
        cpu: quantity(
          'CPU of the sidecar, for example 200m. Never an integer for a VM with dedicated CPUs.',
        ).optional(),
        memory: quantity('Memory of the sidecar, with its index; at least 128Mi.', {
          rule: '!quantity(string(self)).isLessThan(quantity("128Mi"))',
          message: 'a sidecar needs 128Mi at the least',
        }).optional(),
      })
      .meta({ description: 'Resources of the sidecar. Requests equal limits where the pod is Guaranteed.' })
      .optional(),
    index: z
      .object({
        memory: quantity(
          'Most memory the index may take, less than sidecar.memory: about 10 bytes for each block of 4096 bytes.',
        ).optional(),
        nasReadBandwidth: quantity('Most bytes per second read from the NAS to build the index.').optional(),
        build: z
          .enum(['Sample', 'Full', 'Inherit'])
          .default('Sample')
          .meta({
            description:
              'Sample hashes some blocks and grows from hits. Full reads the whole volume within the budget. ' +
              'Inherit reads nothing: the index is what the last migration left.',
          }),
      })
      .meta({ description: 'The page-to-block index.' })
      .optional(),
    defaults: z
      .object({
        acceleration: accelerationSchema.optional(),
        limits: limitsSchema.optional(),
        prepareTimeout: duration('Where a NasAwareMigration does not say.').optional(),
        ttlAfterFinished: duration(
          'Where a NasAwareMigration does not say, and for those the operator makes.',
        ).optional(),
      })
      .meta({ description: 'For migrations of these VMs.' })
      .optional(),
    suspend: z
      .boolean()
      .default(false)
      .meta({ description: 'True: nothing of these VMs is armed; migrations are plain. Sidecars stay.' }),
  })
  .meta({
    ...validated({
      rule:
        '!has(self.sidecar) || !has(self.sidecar.memory) || !has(self.index) || !has(self.index.memory) || ' +
        'quantity(string(self.index.memory)).isLessThan(quantity(string(self.sidecar.memory)))',
      message: 'index.memory is a part of sidecar.memory, and must be less',
    }),
    description: 'What is asked.',
  });

export const nasMigrationPolicyStatusSchema = z
  .object({
    observedGeneration: count('The metadata.generation this status is about.').optional(),
    conditions: conditions.optional(),
    selectedVirtualMachineInstances: count('Running VMs to which this policy applies.').optional(),
    overridden: z
      .array(objectName('A policy.'))
      .max(64)
      .meta({
        'x-kubernetes-list-type': 'set',
        description: 'Policies that win over this one for some VM that both select.',
      })
      .optional(),
  })
  .meta({ description: 'What is the case. Written by the operator.' });

export type NasMigrationPolicySpec = z.infer<typeof nasMigrationPolicySpecSchema>;
export type NasMigrationPolicyStatus = z.infer<typeof nasMigrationPolicyStatusSchema>;

/** The object without metadata, for the generated schema. */
export const nasMigrationPolicySchema = z
  .object({ spec: nasMigrationPolicySpecSchema, status: nasMigrationPolicyStatusSchema.optional() })
  .meta({ description: 'Which VMs migrate with their page cache coming from the NAS, and how.' });
