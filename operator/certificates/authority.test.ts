import { X509Certificate } from 'node:crypto';
import type { V1Secret } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import { type ApiClient, ApiError } from '../kubernetes/api-client.ts';
import { AuthorityStore, isDue, issueServing } from './authority.ts';

const DAY = 86_400_000;

/** One Secret with optimistic locking, as the API server keeps it. */
function secretStore() {
  let secret: V1Secret | undefined;
  let version = 0;
  const refuse = (status: number, reason: string) =>
    Promise.reject(new ApiError('X', '/', status, reason, ''));
  const put = (next: V1Secret) => {
    version += 1;
    secret = structuredClone({ ...next, metadata: { ...next.metadata, resourceVersion: String(version) } });
    return Promise.resolve(secret);
  };
  const api = {
    get: () => (secret === undefined ? refuse(404, 'NotFound') : Promise.resolve(structuredClone(secret))),
    create: (_resource: unknown, next: V1Secret) =>
      secret === undefined ? put(next) : refuse(409, 'AlreadyExists'),
    replace: (_resource: unknown, next: V1Secret) =>
      next.metadata?.resourceVersion === String(version) ? put(next) : refuse(409, 'Conflict'),
  };
  return {
    api: api as unknown as ApiClient,
    writes: () => version,
    corrupt: () => {
      if (secret?.data !== undefined) secret.data['ca.key'] = '';
    },
  };
}

function storeAt(api: ApiClient, clock: { ms: number }) {
  return new AuthorityStore({ api, namespace: 'own', secretName: 's', now: () => clock.ms });
}

describe('authority', () => {
  it('is made once, and shared by all replicas', async () => {
    const { api, writes } = secretStore();
    const clock = { ms: Date.now() };
    const [one, two, three] = await Promise.all([1, 2, 3].map(() => storeAt(api, clock).load()));
    expect(writes()).toBe(1);
    expect(two?.bundlePem).toBe(one?.bundlePem);
    expect(three?.current.keyPem).toBe(one?.current.keyPem);
  });

  it('is replaced at two thirds of its life, and the old one is trusted until it ends', async () => {
    const { api } = secretStore();
    const clock = { ms: Date.now() };
    const first = await storeAt(api, clock).load();
    clock.ms += 480 * DAY;
    expect((await storeAt(api, clock).load()).current.certificatePem).toBe(first.current.certificatePem);
    clock.ms += 10 * DAY;
    const second = await storeAt(api, clock).load();
    expect(second.current.certificatePem).not.toBe(first.current.certificatePem);
    expect(second.bundlePem).toContain(first.current.certificatePem);
    clock.ms += 260 * DAY;
    expect((await storeAt(api, clock).load()).bundlePem).not.toContain(first.current.certificatePem);
  });

  it('is made anew when the Secret was damaged', async () => {
    const { api, writes, corrupt } = secretStore();
    const clock = { ms: Date.now() };
    await storeAt(api, clock).load();
    corrupt();
    await storeAt(api, clock).load();
    expect(writes()).toBe(2);
  });

  it('issues serving certificates for a week, due after two thirds of it', async () => {
    const { api } = secretStore();
    const nowMs = Date.now();
    const { current } = await storeAt(api, { ms: nowMs }).load();
    const leaf = issueServing(current, ['hub.own.svc', '127.0.0.1'], nowMs);
    const certificate = new X509Certificate(leaf.certificatePem);
    expect(certificate.checkIssued(new X509Certificate(current.certificatePem))).toBe(true);
    expect(certificate.validToDate.getTime() - nowMs).toBeLessThanOrEqual(7 * DAY);
    expect(isDue(leaf.certificatePem, nowMs + 4 * DAY)).toBe(false);
    expect(isDue(leaf.certificatePem, nowMs + 5 * DAY)).toBe(true);
  });
});
