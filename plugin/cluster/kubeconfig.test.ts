import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { parseLine } from '../command-line.ts';
import { PluginError } from '../errors.ts';
import { globalFlags } from '../global-flags.ts';
import { accessFrom, kubeconfigOf } from './kubeconfig.ts';

let dir: string;
const file = (name: string) => path.join(dir, name);
const config = (name: string, more: object = {}) => ({
  apiVersion: 'v1',
  kind: 'Config',
  clusters: [
    {
      name: `${name}-cluster`,
      cluster: { server: `https://${name}.example:6443`, 'certificate-authority-data': 'Q0E=' },
    },
  ],
  users: [{ name: `${name}-user`, user: { token: `${name}-token` } }],
  contexts: [
    { name, context: { cluster: `${name}-cluster`, user: `${name}-user`, namespace: `${name}-space` } },
  ],
  'current-context': name,
  ...more,
});

beforeAll(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'nasmig-kubeconfig-'));
  for (const name of ['one', 'two']) writeFileSync(file(name), JSON.stringify(config(name)));
  writeFileSync(file('empty'), '');
  writeFileSync(file('broken'), '{ this is: [not');
  writeFileSync(file('ca'), 'CA');
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const access = (
  line: string[],
  environment: NodeJS.ProcessEnv = { KUBECONFIG: `${file('one')}:${file('nowhere')}:${file('two')}` },
) => accessFrom(parseLine(line, globalFlags).flags, environment);
const problem = (line: string[], environment?: NodeJS.ProcessEnv): PluginError => {
  try {
    access(line, environment);
  } catch (error) {
    if (error instanceof PluginError) return error;
    throw error;
  }
  throw new Error('it was taken');
};

describe('the kubeconfig', () => {
  it('is what the flag says, else $KUBECONFIG, of which the first that names a thing wins', () => {
    expect(access([]).server).toBe('https://one.example:6443');
    expect(access(['--context', 'two']).server).toBe('https://two.example:6443');
    expect(access(['--kubeconfig', file('two')])).toMatchObject({
      server: 'https://two.example:6443',
      namespace: 'two-space',
    });
    expect(access(['--kubeconfig', file('one')]).config.getCurrentUser()?.token).toBe('one-token');
  });

  it('gives the namespace, unless a flag does', () => {
    expect(access([])).toMatchObject({ namespace: 'one-space', defaultNamespace: 'one-space' });
    expect(access(['-n', 'shop']).namespace).toBe('shop');
    expect(access(['-A'])).toMatchObject({ namespace: undefined, defaultNamespace: 'one-space' });
    // As kubectl has it.
    expect(access(['-A', '-n', 'x'])).toMatchObject({ namespace: undefined, defaultNamespace: 'x' });
  });

  it('is changed by flags for cluster, user, server and credentials', () => {
    const changed = access([
      '--cluster',
      'two-cluster',
      '--user',
      'two-user',
      '--token',
      't',
      '--tls-server-name',
      'k8s',
      '--certificate-authority',
      file('ca'),
    ]);
    expect(changed.server).toBe('https://two.example:6443');
    expect(changed.config.getCurrentUser()).toMatchObject({ token: 't' });
    expect(changed.config.getCurrentCluster()).toMatchObject({
      tlsServerName: 'k8s',
      caFile: file('ca'),
      skipTLSVerify: false,
    });
    expect(changed.config.getCurrentCluster()).not.toHaveProperty('caData');
    const unsafe = access([
      '--insecure-skip-tls-verify',
      '--server',
      'https://10.0.0.1:6443',
    ]).config.getCurrentCluster();
    expect(unsafe).toMatchObject({ server: 'https://10.0.0.1:6443', skipTLSVerify: true });
    expect(unsafe).not.toHaveProperty('caData');
  });

  it('takes basic authentication, which then is the only one', () => {
    const { config: changed } = access(['--username', 'u', '--password', 'p']);
    expect(changed.getCurrentUser()).toMatchObject({ username: 'u', password: 'p' });
    expect(changed.getCurrentUser()).not.toHaveProperty('token');
  });

  it.each([[['-v', '6']], [['-v=6']], [['--v=6']], [['--cache-dir', '/tmp/x']], [['--disable-compression']]])(
    'is not touched by %j, which kubectl knows',
    (line) => expect(access(line).server).toBe('https://one.example:6443'),
  );

  it('is not needed with --server', () => {
    expect(access(['--server', 'http://localhost:8001'], {})).toMatchObject({
      server: 'http://localhost:8001',
      namespace: 'default',
    });
  });

  it('is refused in words when it is not there, empty, broken, or lacks what is named', () => {
    expect(problem([], { HOME: '/nowhere' })).toMatchObject({ exit: 'unreachable' });
    expect(problem([], { KUBECONFIG: file('empty') })).toMatchObject({ exit: 'unreachable' });
    expect(problem([], { KUBECONFIG: file('broken') }).message).toContain(
      `the kubeconfig ${file('broken')} cannot be read`,
    );
    expect(problem(['--kubeconfig', file('nowhere')])).toMatchObject({ exit: 'usage' });
    expect(problem(['--context', 'x']).message).toContain('It has: one, two.');
    expect(problem(['--cluster', 'x']).message).toContain('no cluster x');
    expect(problem(['--user', 'x']).message).toContain('no user x');
    expect(problem(['--server', 'here']).message).toContain('is not an address');
    expect(problem(['--certificate-authority', file('nowhere')]).message).toContain('there is no file');
  });

  it("is the pod's service account in a pod that has no other", () => {
    const account = path.join(dir, 'var/run/secrets/kubernetes.io/serviceaccount');
    mkdirSync(account, { recursive: true });
    for (const [name, text] of Object.entries({ token: 't', 'ca.crt': 'CA', namespace: 'inside' }))
      writeFileSync(path.join(account, name), text);
    vi.stubEnv('KUBERNETES_SERVICE_HOST', '10.96.0.1');
    vi.stubEnv('KUBERNETES_SERVICE_PORT', '443');
    const inPod = { HOME: '/nowhere', KUBERNETES_SERVICE_HOST: '10.96.0.1' };
    const none = parseLine([], globalFlags).flags;
    expect(kubeconfigOf(none, inPod, dir).getCurrentCluster()?.server).toBe('https://10.96.0.1:443');
    expect(kubeconfigOf(none, { HOME: '/nowhere' }, dir).getCurrentCluster()).toBeNull();
    vi.unstubAllEnvs();
  });

  it('takes impersonation and time-outs', () => {
    expect(access(['--as', 'a', '--as-group', 'g', '--as-group', 'h', '--as-uid', 'u'])).toMatchObject({
      impersonation: { user: 'a', groups: ['g', 'h'], uid: 'u' },
    });
    expect(problem(['--as-uid', 'u'])).toMatchObject({ exit: 'usage' });
    expect(problem(['--as-user-extra', 'a=b'])).toMatchObject({ exit: 'usage' });
    expect(problem(['--as', 'a', '--as-user-extra', 'b']).message).toContain('is not KEY=VALUE');
    expect(access(['--request-timeout', '5s']).requestTimeoutMs).toBe(5000);
    expect(access(['--request-timeout', '0']).requestTimeoutMs).toBe(0);
  });
});
