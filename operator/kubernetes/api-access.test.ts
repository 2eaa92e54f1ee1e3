import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { RequestOptions } from 'node:https';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { apiAccessFrom, PodAccess } from './api-access.ts';

let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'nasmig-access-'));
  await writeFile(path.join(dir, 'ca.crt'), 'CA');
  await writeFile(path.join(dir, 'token'), 'first\n');
});

afterEach(() => rm(dir, { recursive: true }));

describe('access of a pod', () => {
  const environment = () => ({
    KUBERNETES_SERVICE_HOST: '10.96.0.1',
    KUBERNETES_SERVICE_PORT: '6443',
    NASMIG_SERVICE_ACCOUNT_DIR: dir,
  });

  it('is what kubelet mounts, read anew each time because the token rotates', async () => {
    const access = await apiAccessFrom(environment());
    expect(access).toBeInstanceOf(PodAccess);
    expect(access.getCurrentCluster()?.server).toBe('https://10.96.0.1:6443');
    const options: RequestOptions = { headers: { accept: 'x' } };
    await access.applyToHTTPSOptions(options);
    expect(options).toEqual({ ca: 'CA', headers: { accept: 'x', authorization: 'Bearer first' } });
    await writeFile(path.join(dir, 'token'), 'second');
    await access.applyToHTTPSOptions(options);
    expect(options.headers).toMatchObject({ authorization: 'Bearer second' });
  });

  it('knows IPv6 addresses', async () => {
    const access = await apiAccessFrom({ ...environment(), KUBERNETES_SERVICE_HOST: 'fd00::1' });
    expect(new URL(access.getCurrentCluster()?.server ?? '').port).toBe('6443');
  });

  it('is not used where KUBECONFIG names a cluster', async () => {
    const file = path.join(dir, 'config');
    const config = {
      clusters: [{ name: 'c', cluster: { server: 'https://elsewhere:1' } }],
      contexts: [{ name: 'c', context: { cluster: 'c', user: 'u' } }],
      users: [{ name: 'u', user: { token: 't' } }],
      'current-context': 'c',
    };
    await writeFile(file, JSON.stringify(config));
    process.env['KUBECONFIG'] = file;
    try {
      const access = await apiAccessFrom({ ...environment(), KUBECONFIG: file });
      expect(access.getCurrentCluster()?.server).toBe('https://elsewhere:1');
    } finally {
      delete process.env['KUBECONFIG'];
    }
  });
});
