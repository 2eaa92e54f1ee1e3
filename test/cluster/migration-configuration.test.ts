import { describe, expect, it } from 'vitest';
import type { Vmi } from './kubevirt-objects.ts';
import { configurationFor, DEFAULT_CONFIGURATION, type MigrationPolicy } from './migration-configuration.ts';
import { flagsOf } from './virt-handlers.ts';

const policy = (name: string, vmi: Record<string, string>, spec: object): MigrationPolicy => ({
  metadata: { name },
  spec: { selectors: { virtualMachineInstanceSelector: vmi }, ...spec },
});

describe('configurationFor', () => {
  it("is KubeVirt's defaults, then the KubeVirt object's", () => {
    expect(configurationFor(undefined, [], {}, {})).toEqual({ configuration: DEFAULT_CONFIGURATION });
    const kubevirt = { spec: { configuration: { migrations: { maxDowntimeMs: 300 } } } };
    expect(configurationFor(kubevirt, [], {}, {}).configuration).toMatchObject({
      maxDowntimeMs: 300,
      progressTimeout: 150,
    });
  });

  it('takes the policy with more matching labels, then the first by name', () => {
    const policies = [
      policy('b', { tier: 'data' }, { allowPostCopy: true }),
      policy('a', { tier: 'data' }, { bandwidthPerMigration: '64Mi' }),
      policy('c', { tier: 'data', size: 'big' }, { allowAutoConverge: true }),
    ];
    expect(configurationFor(undefined, policies, { tier: 'data' }, {})).toMatchObject({
      policyName: 'a',
      configuration: { bandwidthPerMigration: '64Mi', allowPostCopy: false },
    });
    const both = configurationFor(undefined, policies, { tier: 'data', size: 'big' }, {});
    expect(both.policyName).toBe('c');
    expect(both.configuration).not.toHaveProperty('selectors');
  });

  it('prefers labels of the VMI to those of the namespace, and knows no policy without selectors', () => {
    const policies = [
      { metadata: { name: '0' }, spec: { allowPostCopy: true } },
      { metadata: { name: 'a' }, spec: { selectors: { namespaceSelector: { team: 'x' } } } },
      policy('b', { tier: 'data' }, {}),
    ];
    expect(configurationFor(undefined, policies, { tier: 'data' }, { team: 'x' }).policyName).toBe('b');
    expect(configurationFor(undefined, policies, {}, {}).policyName).toBeUndefined();
  });
});

describe('flagsOf', () => {
  const vmi = (cpu?: string): Vmi => ({
    metadata: { name: 'db', namespace: 'shop', uid: 'u' },
    spec: cpu === undefined ? {} : { domain: { resources: { limits: { cpu } } } },
  });
  const state = (configuration: object) => ({
    ...{ migrationUid: 'm', sourceNode: 'a', sourcePod: 'p', targetNode: 'b', targetPod: 'q' },
    migrationConfiguration: { ...DEFAULT_CONFIGURATION, ...configuration },
  });

  it('asks for eight channels unless the VM has a CPU limit', () => {
    expect(flagsOf(vmi(), state({})).channels).toBe(8);
    expect(flagsOf(vmi('2'), state({})).channels).toBe(0);
  });

  it('passes on what the configuration allows', () => {
    const configuration = {
      allowPostCopy: true,
      bandwidthPerMigration: '64Mi',
      experimental: { compression: 'zstd' },
    };
    expect(flagsOf(vmi(), state(configuration))).toMatchObject({
      postCopy: true,
      bandwidthMib: 64,
      zstd: true,
    });
    expect(flagsOf(vmi(), state({}))).toMatchObject({ postCopy: false, bandwidthMib: 0, zstd: false });
  });
});
