// The Prometheus operator's ServiceMonitor as far as the chart uses it, strictly: a field that is not here is refused by the API
// server. Group, version and fields are those of its API reference (monitoring.coreos.com/v1).
import type { V1CustomResourceDefinition } from '@kubernetes/client-node';

const labelMap = { type: 'object', additionalProperties: { type: 'string' } };

export const serviceMonitorDefinition: V1CustomResourceDefinition = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'servicemonitors.monitoring.coreos.com' },
  spec: {
    group: 'monitoring.coreos.com',
    scope: 'Namespaced',
    names: { kind: 'ServiceMonitor', plural: 'servicemonitors', singular: 'servicemonitor' },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        schema: {
          openAPIV3Schema: {
            type: 'object',
            required: ['spec'],
            properties: {
              spec: {
                type: 'object',
                required: ['selector', 'endpoints'],
                properties: {
                  selector: { type: 'object', properties: { matchLabels: labelMap } },
                  endpoints: {
                    type: 'array',
                    items: {
                      type: 'object',
                      properties: {
                        port: { type: 'string' },
                        interval: { type: 'string', pattern: '^(0|(([0-9]+)(ms|s|m|h))+)$' },
                      },
                    },
                  },
                },
              },
            },
          },
        },
      },
    ],
  },
};
