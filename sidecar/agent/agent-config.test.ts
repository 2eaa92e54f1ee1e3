import { describe, expect, it } from 'vitest';
import { AgentConfigError, agentConfigFrom } from './agent-config.ts';

/** What operator/injection sets. */
const injected = {
  NASMIG_HUB_URL: 'wss://hub.nasmig.svc:8443',
  NASMIG_TOKEN_FILE: '/var/run/secrets/nasmigration.io/token',
  NASMIG_CA_FILE: '/var/run/secrets/nasmigration.io/ca.crt',
  NASMIG_POD_NAMESPACE: 'shop',
  NASMIG_POD_NAME: 'virt-launcher-db-x7k2p',
  NASMIG_POD_UID: '0d0a8a3e-77c1-4a3f-8a60-3f6b51c0a001',
  NASMIG_VMI_NAME: 'db',
  NASMIG_VMI_UID: '5f2f0a9c-1a6b-4e1f-8a52-0c5f1d3c8e22',
  NASMIG_RUN_DIR: '/var/run/kubevirt',
  NASMIG_VOLUMES_DIR: '/var/run/nasmigration/volumes',
  NASMIG_INDEX_MEMORY_BYTES: '67108864',
  NASMIG_LOG_LEVEL: 'info',
};

describe('agentConfigFrom', () => {
  it('takes what the injection sets, with defaults for the rest', () => {
    expect(agentConfigFrom(injected)).toEqual({
      hub: {
        url: 'wss://hub.nasmig.svc:8443',
        tokenFile: '/var/run/secrets/nasmigration.io/token',
        caFile: '/var/run/secrets/nasmigration.io/ca.crt',
      },
      pod: {
        namespace: 'shop',
        name: 'virt-launcher-db-x7k2p',
        uid: '0d0a8a3e-77c1-4a3f-8a60-3f6b51c0a001',
      },
      vmi: { name: 'db', uid: '5f2f0a9c-1a6b-4e1f-8a52-0c5f1d3c8e22' },
      release: '0.1.0',
      logLevel: 'info',
      socketDirectory: '/var/run/kubevirt/migrationproxy',
      volumesDirectory: '/var/run/nasmigration/volumes',
      index: {
        memoryBytes: 67108864,
        build: 'sample',
        bytesPerSecond: 16 * 1024 * 1024,
        delayMs: 60_000,
        oneIn: 10,
      },
    });
  });

  it('names every variable that is wrong', () => {
    const wrong = { ...injected, NASMIG_HUB_URL: 'http://hub', NASMIG_POD_UID: undefined };
    expect(() => agentConfigFrom(wrong)).toThrow(AgentConfigError);
    expect(() => agentConfigFrom(wrong)).toThrow(/NASMIG_HUB_URL: .*NASMIG_POD_UID: /);
    expect(() => agentConfigFrom({ ...injected, NASMIG_INDEX_MEMORY_BYTES: '64Mi' })).toThrow(
      /NASMIG_INDEX_MEMORY_BYTES/,
    );
  });
});
