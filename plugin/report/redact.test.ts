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
    ['arguments in words of their own', { args: ['--password', SECRET, '-v'] }],
    ['arguments in one text', { command: ['sh', '-c', `mount --password ${SECRET} /mnt`] }],
    ['addresses with a password', { server: `https://user:${SECRET}@nas.example` }],
    ['addresses without a scheme', { share: `//user:${SECRET}@nas.example/share` }],
    ['addresses whose password holds an @', { server: `https://user:p@${SECRET}@nas.example/x` }],
    [
      'cloud-init in JSON in annotations',
      {
        annotations: {
          'example.org/vm': JSON.stringify({
            spec: { cloudInitNoCloud: { userData: `#cloud-config\n${SECRET}` } },
          }),
        },
      },
    ],
    [
      'JSON in JSON',
      { note: JSON.stringify({ inner: JSON.stringify({ args: ['--token', SECRET], password: SECRET }) }) },
    ],
    ['passphrases', { message: `passphrase: ${SECRET}` }],
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

  it('in a long line, too, without end', () => {
    const line = `${'a-'.repeat(200_000)} ${'"userData":"'.repeat(200)} --password ${SECRET}`;
    expect(redactedText(line)).not.toContain(SECRET);
  });

  it('from logs, too', () => {
    const log = [
      `authorization: Bearer ${SECRET}`,
      `{"level":30,"sessionKey":"${SECRET}","msg":"armed"}`,
      `password=${SECRET}&x=1`,
      `passphrase: ${SECRET}`,
      JSON.stringify({ password: `quote"${SECRET}`, kept: 'b' }),
      JSON.stringify({ msg: JSON.stringify({ password: `quote"${SECRET}` }) }),
      `ran mount.cifs --password ${SECRET} -o ro`,
      `dial //user:${SECRET}@nas and https://user:p@${SECRET}@nas.example/x`,
      JSON.stringify({ msg: JSON.stringify({ password: SECRET, level: 'deep' }) }),
      JSON.stringify({ msg: JSON.stringify({ inner: JSON.stringify({ token: SECRET }) }) }),
      JSON.stringify({ msg: JSON.stringify({ userData: `#cloud-config\nusers: "${SECRET}"\n` }) }),
      JSON.stringify({ spec: { userData: `#cloud-config\nrun: "${SECRET}"` }, kept: 'a' }),
      'migration adopted {"name":"move-db"}',
    ].join('\n');
    const out = redactedText(log);
    expect(out).not.toContain(SECRET);
    expect(out).toContain('"msg":"armed"');
    expect(out).toContain('-o ro');
    expect(out).toContain('deep');
    expect(out).toContain('"kept":"b"');
    expect(out).toContain('"kept":"a"');
    expect(out).toContain('@nas.example/x');
    expect(out).toContain('migration adopted {"name":"move-db"}');
  });
});
