// NasAwareMigration (`nam`): one live migration of one VM, with its page cache coming from the NAS where that is possible,
// and the record of what happened. Types and the CRD are both made from this file.
import { z } from 'zod';
import {
  accelerationSchema,
  conditions,
  count,
  duration,
  instant,
  labelMap,
  limitsSchema,
  MAX_VOLUMES,
  objectName,
  text,
  uid,
} from './fields.ts';
import { validated } from './structural-schema.ts';

/** A field that may be left out, but neither changed, added nor removed once the object exists. */
const immutable = (field: string) => ({
  rule: `has(self.${field}) == has(oldSelf.${field}) && (!has(self.${field}) || self.${field} == oldSelf.${field})`,
  message: `${field} cannot be changed: make another NasAwareMigration`,
});

export const nasAwareMigrationSpecSchema = z
  .object({
    vmiName: objectName('The VirtualMachineInstance to migrate, in the same namespace.'),
    migrationName: objectName(
      'An existing VirtualMachineInstanceMigration to accelerate and record, in place of making one. It is never cancelled by ' +
        'this object, neither by Required nor when the object is deleted. ' +
        'The operator sets it for migrations that others started.',
    ).optional(),
    target: z
      .object({
        nodeSelector: labelMap(
          'Labels the target node must have, besides what the VM itself asks for.',
        ).optional(),
      })
      .meta({ description: 'Where the VM may go.' })
      .optional(),
    acceleration: accelerationSchema
      .meta({
        description:
          'Preferred migrates plainly, and says why, when it cannot be accelerated. Required refuses before anything moved. ' +
          'Observe changes no byte and records what would have been saved. Disabled migrates plainly. ' +
          'When left out, the policy of the VM decides, else Preferred.',
      })
      .optional(),
    volumes: z
      .array(z.string().min(1).max(63))
      .min(1)
      .max(MAX_VOLUMES)
      .meta({
        'x-kubernetes-list-type': 'set',
        description: 'Volumes of the VM to read pages from, by name. When left out: every shared raw volume.',
      })
      .optional(),
    limits: limitsSchema
      .meta({ description: 'Upper bounds; the policy of the VM may have lower ones.' })
      .optional(),
    prepareTimeout: duration(
      'How long to wait for the index and for the sidecars before the migration is started, for example 30s. When left out: not at all, but 15 s for the sidecar when acceleration is Required or the operator has just been restarted, and for a permit to read the NAS as long as it takes.',
    ).optional(),
    ttlAfterFinished: duration(
      'How long to keep this object after it finished. When left out, it is kept.',
    ).optional(),
  })
  .meta({
    ...validated(
      {
        rule: 'self.vmiName == oldSelf.vmiName',
        message: 'vmiName cannot be changed: make another NasAwareMigration',
      },
      immutable('migrationName'),
      immutable('target'),
      immutable('acceleration'),
      immutable('volumes'),
      {
        rule: '!(has(self.migrationName) && has(self.target))',
        message: 'target has no effect on an existing migration: leave out target or migrationName',
      },
    ),
    description: 'What is asked.',
  });

export const phases = ['Pending', 'Preparing', 'Migrating', 'Succeeded', 'Failed', 'Cancelled'] as const;

const podPlace = (description: string) =>
  z
    .object({
      pod: objectName('virt-launcher pod.').optional(),
      podUID: uid('Its UID.').optional(),
      node: objectName('Its node.').optional(),
    })
    .meta({ description });

const pages = z
  .object({
    reference: count('Pages that the target read from the NAS.'),
    literalRaw: count('Pages sent as they are.'),
    literalCompressed: count('Pages sent compressed.'),
    zero: count('Pages of zeros.'),
  })
  .meta({ description: 'Pages of 4096 bytes by what became of them.' });

export const nasAwareMigrationStatusSchema = z
  .object({
    observedGeneration: count('The metadata.generation this status is about.').optional(),
    phase: z.enum(phases).meta({ description: 'Where the migration stands.' }).optional(),
    conditions: conditions.optional(),
    acceleration: accelerationSchema.meta({ description: 'What applies, after the policy.' }).optional(),
    policyName: objectName('The NasMigrationPolicy that applies.').optional(),
    vmiUID: uid('UID of the VirtualMachineInstance.').optional(),
    migration: z
      .object({
        name: objectName('Name of the VirtualMachineInstanceMigration.'),
        uid: uid('Its UID.').optional(),
        phase: text(64, 'Its phase as KubeVirt reports it.').optional(),
      })
      .meta({ description: 'The KubeVirt migration that moves the VM.' })
      .optional(),
    source: podPlace('Where the VM comes from.').optional(),
    target: podPlace('Where the VM goes.').optional(),
    index: z
      .object({
        blocks: count('Blocks of 4096 bytes that can be referred to.'),
        bytes: count('Memory the index takes.'),
        ageSeconds: count('Since it last took in a block.'),
        ready: z.boolean().meta({ description: 'False while it is being built.' }),
      })
      .meta({ description: "The source sidecar's page-to-block index when the migration began." })
      .optional(),
    progress: z
      .object({
        percent: z
          .number()
          .int()
          .min(0)
          .max(100)
          .meta({ description: 'Of the memory, never running backwards.' }),
        iteration: count("QEMU's pass over the memory."),
        remainingBytes: count('What QEMU has still to send.'),
        bytesPerSecond: count('Of guest memory.'),
        secondsLeft: count('At that rate.').optional(),
        linkBytes: count('On the migration link so far.'),
        nasBytes: count('Read from the NAS so far.'),
        pages: pages.optional(),
        updateTime: instant('When this was reported.'),
      })
      .meta({ description: 'While it runs.' })
      .optional(),
    result: z
      .object({
        accelerated: z.boolean().meta({ description: 'Whether pages came from the NAS.' }),
        attempt: z
          .enum(['Accelerated', 'FailedWhileArmed', 'Plain', 'Observed'])
          .meta({
            description: 'What became of the acceleration; FailedWhileArmed opens the breaker of the VM.',
          })
          .optional(),
        reason: text(64, 'Why not, a documented constant.').optional(),
        message: text(4096, 'The same in words.').optional(),
        qemuBytes: count('Bytes the source QEMU wrote.').optional(),
        linkBytes: count("Bytes of the sidecars' frames on the link, without TCP and TLS.").optional(),
        nasBytes: count('Bytes read from the NAS for pages, and for the index to grow.').optional(),
        indexNasBytes: count('Of these, what grew the index and was used for no page.').optional(),
        savedBytes: count('What plain would have sent, less what was sent.').optional(),
        savedPercent: z
          .number()
          .int()
          .min(0)
          .max(100)
          .meta({ description: 'The same in per cent.' })
          .optional(),
        pages: pages.optional(),
        resends: count('Batches of which pages were sent again because the NAS had other data.').optional(),
        iterations: count('Passes over the memory.').optional(),
        durationMs: count('From the first byte to the last.').optional(),
        estimate: z
          .object({
            linkBytes: count('What would have been on the link.'),
            nasBytes: count('What would have been read from the NAS for pages.'),
            savedBytes: count('What plain sent, less that.'),
            savedPercent: z.number().int().min(0).max(100).meta({ description: 'The same in per cent.' }),
            pages,
            hitsCountedTimes: count(
              'For how many pages a hit in the index was counted: 10 when one block in 10 is indexed, 1 for a whole index.',
            ),
          })
          .meta({ description: 'With Observe: what would have been saved.' })
          .optional(),
        isPlainFaster: z
          .boolean()
          .meta({
            description:
              'What was tried on the way showed that the link would have brought the pages sooner as they are: for a day the next ones of this VM are plain, unless they are Required or have a limit of the link.',
          })
          .optional(),
        downtimeMs: count('How long the VM was stopped, as the source sidecar saw it.').optional(),
        sourceCpuMs: count("CPU time of the source's sidecar.").optional(),
        targetCpuMs: count("CPU time of the target's sidecar.").optional(),
      })
      .meta({ description: 'What happened, once it is over.' })
      .optional(),
    startTime: instant('When the KubeVirt migration was made.').optional(),
    completionTime: instant('When it was over.').optional(),
  })
  .meta({ description: 'What is the case. Written by the operator.' });

export type NasAwareMigrationSpec = z.infer<typeof nasAwareMigrationSpecSchema>;
export type NasAwareMigrationStatus = z.infer<typeof nasAwareMigrationStatusSchema>;
export type Phase = (typeof phases)[number];

/** The object without metadata, for the generated schema. */
export const nasAwareMigrationSchema = z
  .object({ spec: nasAwareMigrationSpecSchema, status: nasAwareMigrationStatusSchema.optional() })
  .meta({
    description: 'Live migration of a VM whose page cache comes from the NAS in place of the network.',
  });
