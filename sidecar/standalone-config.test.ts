import { describe, expect, it } from 'vitest';
import {
  parseSessionKey,
  parseStandaloneConfig,
  readStandaloneConfig,
  StandaloneConfigError,
} from './standalone-config.ts';

const least = {
  role: 'source',
  listen: 'a.sock',
  dial: 'b.sock',
  migrationId: '5b3c1f0e-9a7d-4c55-8d1e-0123456789ab',
  sessionKeyFile: 'key',
  volumes: [],
};

describe('the configuration of a standalone sidecar', () => {
  it('has a default for all that is not said', () => {
    expect(parseStandaloneConfig(JSON.stringify(least), 'c.json')).toMatchObject({
      ...least,
      downtimeLimitMs: 900,
      pace: true,
      index: { kind: 'none' },
    });
  });

  it.each([
    ['no JSON', '{', /c\.json: it is not JSON/],
    ['no object', '[]', /c\.json/],
    ['another role', JSON.stringify({ ...least, role: 'both' }), /role/],
    ['a limit that is none', JSON.stringify({ ...least, downtimeLimitMs: 0 }), /downtimeLimitMs/],
  ])('is refused by name: %s', (_what, text, message) => {
    expect(() => parseStandaloneConfig(text, 'c.json')).toThrow(StandaloneConfigError);
    expect(() => parseStandaloneConfig(text, 'c.json')).toThrow(message);
  });

  it('a file that is not there is named', () => {
    expect(() => readStandaloneConfig('/nowhere/c.json')).toThrow(StandaloneConfigError);
    expect(() => readStandaloneConfig(undefined)).toThrow(/usage/);
  });

  it('a key that is none is refused, and not repeated', () => {
    expect(parseSessionKey(`${'ab'.repeat(32)}\n`, 'key')).toHaveLength(32);
    expect(() => parseSessionKey('abcdef', 'key')).toThrow(/64 hexadecimal digits, this file has 6/);
    expect(() => parseSessionKey('abcdef', 'key')).not.toThrow(/abcdef/);
  });
});
