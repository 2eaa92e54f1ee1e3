// Kinds of the Prometheus operator (monitoring.coreos.com/v1) and of cert-manager (cert-manager.io/v1) as far as the chart uses them,
// strictly: a field that is not here is refused by the API server. Groups, versions and fields are those of their API references.
import type { V1CustomResourceDefinition, V1JSONSchemaProps } from '@kubernetes/client-node';

const text: V1JSONSchemaProps = { type: 'string' };
const labelMap: V1JSONSchemaProps = { type: 'object', additionalProperties: text };
const prometheusDuration: V1JSONSchemaProps = { type: 'string', pattern: '^(0|(([0-9]+)(ms|s|m|h|d))+)$' };
const object = (properties: Record<string, V1JSONSchemaProps>, ...required: string[]): V1JSONSchemaProps => ({
  type: 'object',
  properties,
  ...(required.length === 0 ? {} : { required }),
});
const list = (items: V1JSONSchemaProps): V1JSONSchemaProps => ({ type: 'array', items });

const endpoints = list(
  object({ port: text, interval: prometheusDuration, honorLabels: { type: 'boolean' } }, 'port'),
);
const selector = object({ matchLabels: labelMap });
const issuerRef = object({ name: text, kind: text, group: text }, 'name');

function definition(group: string, kind: string, spec: V1JSONSchemaProps): V1CustomResourceDefinition {
  const singular = kind.toLowerCase();
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${singular}s.${group}` },
    spec: {
      group,
      scope: 'Namespaced',
      names: { kind, plural: `${singular}s`, singular },
      versions: [
        {
          name: 'v1',
          served: true,
          storage: true,
          schema: { openAPIV3Schema: object({ spec }, 'spec') },
        },
      ],
    },
  };
}

const prometheus = 'monitoring.coreos.com';
const certManager = 'cert-manager.io';

export const neighbourDefinitions: readonly V1CustomResourceDefinition[] = [
  definition(prometheus, 'ServiceMonitor', object({ selector, endpoints }, 'selector', 'endpoints')),
  definition(
    prometheus,
    'PodMonitor',
    object({ selector, podMetricsEndpoints: endpoints }, 'selector', 'podMetricsEndpoints'),
  ),
  definition(
    prometheus,
    'PrometheusRule',
    object({
      groups: list(
        object(
          {
            name: { ...text, minLength: 1 },
            interval: prometheusDuration,
            rules: list(
              object(
                {
                  alert: text,
                  record: text,
                  expr: text,
                  for: prometheusDuration,
                  labels: labelMap,
                  annotations: labelMap,
                },
                'expr',
              ),
            ),
          },
          'name',
        ),
      ),
    }),
  ),
  definition(
    certManager,
    'Issuer',
    object({ selfSigned: object({}), ca: object({ secretName: text }, 'secretName') }),
  ),
  definition(
    certManager,
    'Certificate',
    object(
      {
        secretName: text,
        isCA: { type: 'boolean' },
        commonName: { ...text, maxLength: 64 },
        dnsNames: list(text),
        duration: text,
        renewBefore: text,
        usages: list(text),
        privateKey: object({
          algorithm: { ...text, pattern: '^(RSA|ECDSA|Ed25519)$' },
          size: { type: 'integer' },
          rotationPolicy: { ...text, pattern: '^(Never|Always)$' },
        }),
        issuerRef,
      },
      'issuerRef',
      'secretName',
    ),
  ),
];
