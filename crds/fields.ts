// Fields that both resources use: names, quantities, durations, label maps, conditions, each with its bound.
import { z } from 'zod';
import { type ValidationRule, validated } from './structural-schema.ts';

/** Longest name of an object (RFC 1123 sub-domain). */
export const MAX_NAME_LENGTH = 253;
/** Longest text in a condition, as metav1.Condition has it. */
export const MAX_MESSAGE_LENGTH = 32_768;
/** Volumes of a VM; the control protocol has the same limit. */
export const MAX_VOLUMES = 64;

export const objectName = (description: string) =>
  z
    .string()
    .min(1)
    .max(MAX_NAME_LENGTH)
    .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/)
    .meta({ description });

export const uid = (description: string) => z.string().max(64).meta({ description });

export const text = (maxLength: number, description: string) =>
  z.string().max(maxLength).meta({ description });

/** A count, in the unit that its name carries. */
export const count = (description: string) => z.number().int().min(0).meta({ description });

/** With whatever offset: an API server takes any. */
export const instant = (description: string) => z.iso.datetime({ offset: true }).meta({ description });

/** A quantity as the structural schema has it: integer or string, with Kubernetes' pattern, above zero. */
const quantityKeywords = {
  'x-kubernetes-int-or-string': true,
  pattern:
    '^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$',
  maxLength: 32,
};

/** Read as text, whichever of the two it is stored as. `rules` come on top of "above zero". */
export const quantity = (description: string, ...rules: ValidationRule[]) =>
  z.preprocess(
    (value) => (Number.isInteger(value) ? String(value) : value),
    z.string().meta({
      ...quantityKeywords,
      ...validated(
        {
          rule: 'quantity(string(self)).isGreaterThan(quantity("0"))',
          message: 'must be above zero; leave it out for no limit',
        },
        ...rules,
      ),
      description,
    }),
  );

/** A duration such as `90s` or `1h30m`, at most a week. */
export const duration = (description: string) =>
  z
    .string()
    .max(32)
    .regex(/^([0-9]+(h|m|s|ms))+$/)
    .meta({
      ...validated({ rule: 'duration(self) <= duration("168h")', message: 'must be a week or less' }),
      description,
    });

export const labelMap = (description: string) =>
  z.record(z.string(), z.string().max(63)).meta({
    maxProperties: 32,
    // A schema bounds values, not keys: a prefix of 253 characters, a slash, a name of 63.
    ...validated({
      rule: 'self.all(key, size(key) <= 317)',
      message: 'a label key has at most 317 characters',
    }),
    description,
  });

/** metav1.Condition. */
export const conditionSchema = z.object({
  type: z.string().max(316).meta({ description: 'What the condition is about, in CamelCase.' }),
  status: z.enum(['True', 'False', 'Unknown']),
  observedGeneration: count('The metadata.generation the condition was set for.').optional(),
  lastTransitionTime: instant('When the status last changed.'),
  reason: z
    .string()
    .min(1)
    .max(1024)
    .regex(/^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$/)
    .meta({ description: 'A documented constant, see docs/reasons.md.' }),
  message: text(MAX_MESSAGE_LENGTH, 'What is the case and what can be done, for people.'),
});
export type Condition = z.infer<typeof conditionSchema>;

export const conditions = z
  .array(conditionSchema)
  .max(16)
  .meta({
    'x-kubernetes-list-type': 'map',
    'x-kubernetes-list-map-keys': ['type'],
    description: 'Standard conditions.',
  });

export const limitsSchema = z.object({
  linkBandwidth: quantity(
    'Most bytes per second on the migration link, over all connections, for example 400M.',
  ).optional(),
  nasReadBandwidth: quantity(
    "Most bytes per second read from the NAS for this migration's pages.",
  ).optional(),
});

/** How much our system may do. */
export const accelerationSchema = z.enum(['Preferred', 'Required', 'Observe', 'Disabled']);
export type Acceleration = z.infer<typeof accelerationSchema>;
