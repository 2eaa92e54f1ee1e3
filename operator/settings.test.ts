import { describe, expect, it } from 'vitest';
import { SettingsError, settingsFrom } from './settings.ts';

const needed = {
  NASMIG_NAMESPACE: 'nasmig',
  NASMIG_SIDECAR_IMAGE: 'sidecar:1',
  NASMIG_HUB_URL: 'wss://hub:8443',
};

const problemOf = (environment: Record<string, string>) => {
  try {
    settingsFrom({ ...needed, ...environment });
  } catch (error) {
    expect(error).toBeInstanceOf(SettingsError);
    return (error as SettingsError).message;
  }
  return 'none';
};

describe('resources of sidecars', () => {
  it('have defaults', () => {
    expect(settingsFrom(needed).sidecar).toMatchObject({ cpu: '100m', memory: '256Mi', indexMemory: '64Mi' });
  });

  it.each([
    ['NASMIG_SIDECAR_CPU', 'much', '"much" is no quantity'],
    ['NASMIG_SIDECAR_CPU', '0', 'is no quantity above zero'],
    ['NASMIG_SIDECAR_MEMORY', '256MiB', '"256MiB" is no quantity'],
    ['NASMIG_SIDECAR_MEMORY', '', 'is no quantity'],
    ['NASMIG_SIDECAR_MEMORY', '127Mi', '128Mi at the least'],
    ['NASMIG_INDEX_MEMORY', '-1', 'is no quantity above zero'],
    ['NASMIG_INDEX_MEMORY', '256Mi', 'is a part of NASMIG_SIDECAR_MEMORY'],
  ])('%s=%s is refused in words', (name, value, words) => {
    expect(problemOf({ [name]: value })).toContain(`${name}: `);
    expect(problemOf({ [name]: value })).toContain(words);
  });

  it('are taken as they are written', () => {
    const asked = {
      NASMIG_SIDECAR_CPU: '1',
      NASMIG_SIDECAR_MEMORY: '134217728',
      NASMIG_INDEX_MEMORY: '127Mi',
    };
    expect(settingsFrom({ ...needed, ...asked }).sidecar).toMatchObject({
      cpu: '1',
      memory: '134217728',
      indexMemory: '127Mi',
    });
  });
});
