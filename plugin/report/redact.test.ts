import { describe, expect, it } from 'vitest';
import { REDACTED, redacted, redactedText } from './redact.ts';

const SECRET = 'hunter2hunter2';

describe('a bundle leaves out', () => {
  it.each<[string, unknown]>([
    ['cloud-init', { cloudInitNoCloud: { userData: `password: ${SECRET}`, networkDataBase64: SECRET } }],
    [
      'environment variables with telling names',
      {
        env: [
          { name: 'DB_PASSWORD', value: SECRET },
          { name: 'API_KEY', value: SECRET },
        ],
      },
    ],
    [
      'fields with telling names',
      { password: SECRET, authToken: SECRET, clientSecret: SECRET, session_key: SECRET },
    ],
    ['lists of such', { accessKeys: [SECRET], tokens: [SECRET], credentials: [SECRET] }],
    ['annotations with telling names', { metadata: { annotations: { 'example.org/db-password': SECRET } } }],
    [
      'what kubectl apply remembers',
      { annotations: { 'kubectl.kubernetes.io/last-applied-configuration': SECRET } },
    ],
    ['arguments', { args: [`--password=${SECRET}`, `--token ${SECRET}`.replace(' ', '=')] }],
    ['addresses with a password', { server: `https://user:${SECRET}@nas.example` }],
    ['web tokens in any text', { message: `got eyJhbGciOiJSUzI1NiJ9.${SECRET}.${SECRET}` }],
    [
      'private keys in any text',
      { note: `-----BEGIN EC PRIVATE KEY-----\n${SECRET}\n-----END EC PRIVATE KEY-----` },
    ],
    [
      'something nested without end',
      Array.from({ length: 100 }).reduce<unknown>((inner) => ({ inner }), SECRET),
    ],
  ])('%s', (_name, value) => {
    const text = JSON.stringify(redacted(value));
    expect(text).not.toContain(SECRET);
    expect(text.includes(REDACTED) || _name === 'what kubectl apply remembers').toBe(true);
  });

  it('no more than that: what helps stays', () => {
    const pod = {
      metadata: { name: 'virt-launcher-db', labels: { 'kubevirt.io': 'virt-launcher' } },
      spec: {
        automountServiceAccountToken: false,
        volumes: [
          {
            name: 'c',
            projected: {
              sources: [
                { serviceAccountToken: { audience: 'nasmig', expirationSeconds: 3600, path: 'token' } },
              ],
            },
          },
          { name: 's', secret: { secretName: 'db-secret' } },
        ],
        affinity: { podAntiAffinity: [{ topologyKey: 'kubernetes.io/hostname' }] },
        env: [
          { name: 'NASMIG_HUB_URL', value: 'wss://hub:8443' },
          { name: 'X', valueFrom: { secretKeyRef: { name: 'db-secret', key: 'password' } } },
        ],
        matchExpressions: [{ key: 'tier', operator: 'In', values: ['a'] }],
      },
      status: { conditions: [{ type: 'Ready', message: 'see docs/reasons.md' }], replicas: 2 },
    };
    expect(redacted(pod)).toEqual(pod);
  });

  it('from logs, too', () => {
    const log = [
      `authorization: Bearer ${SECRET}`,
      `{"level":30,"sessionKey":"${SECRET}","msg":"armed"}`,
      `password=${SECRET}&x=1`,
      'migration adopted {"name":"move-db"}',
    ].join('\n');
    const out = redactedText(log);
    expect(out).not.toContain(SECRET);
    expect(out).toContain('"msg":"armed"');
    expect(out).toContain('migration adopted {"name":"move-db"}');
  });
});
