import { X509Certificate } from 'node:crypto';
import type { V1Secret } from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';
import { type ApiClient, ApiError } from '../kubernetes/api-client.ts';
import { AuthorityStore, isDue, issueServing, SIGN_AFTER_MS } from './authority.ts';

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
    keys: () => Object.keys(secret?.data ?? {}),
    lose: (key: string) => {
      if (secret?.data !== undefined) secret.data[key] = '';
    },
  };
}

function storeAt(api: ApiClient, clock: { ms: number }) {
  return new AuthorityStore({ api, namespace: 'own', secretName: 's', now: () => clock.ms });
}

function isSignedBy(leafPem: string, authorityPem: string): boolean {
  return new X509Certificate(leafPem).verify(new X509Certificate(authorityPem).publicKey);
}

describe('authority', () => {
  it('is made once, and shared by all replicas', async () => {
    const { api, writes } = secretStore();
    const clock = { ms: Date.now() };
    const [one, two, three] = await Promise.all([1, 2, 3].map(() => storeAt(api, clock).load()));
    expect(writes()).toBe(1);
    expect(two?.bundlePem).toBe(one?.bundlePem);
    expect(three?.signer.keyPem).toBe(one?.signer.keyPem);
  });

  it('is replaced at two thirds of its life, and the old one is trusted until it ends', async () => {
    const { api } = secretStore();
    const clock = { ms: Date.now() };
    const first = await storeAt(api, clock).load();
    clock.ms += 480 * DAY;
    expect((await storeAt(api, clock).load()).bundlePem).toBe(first.bundlePem);
    clock.ms += 10 * DAY;
    const second = await storeAt(api, clock).load();
    expect(second.bundlePem).not.toBe(first.bundlePem);
    expect(second.bundlePem).toContain(first.bundlePem);
    clock.ms += 260 * DAY;
    expect((await storeAt(api, clock).load()).bundlePem).not.toContain(first.bundlePem);
  });

  it('signs only when it has been trusted for a while: pods read it late', async () => {
    const { api } = secretStore();
    const clock = { ms: Date.now() };
    const first = await storeAt(api, clock).load();
    clock.ms += 490 * DAY;
    const rotated = await storeAt(api, clock).load();
    expect(rotated.signer).toEqual(first.signer);
    const leaf = issueServing(rotated.signer, ['hub.own.svc'], clock.ms);
    expect(isSignedBy(leaf.certificatePem, first.bundlePem)).toBe(true);
    // Certificates tell the time in seconds.
    clock.ms += SIGN_AFTER_MS - 2000;
    expect((await storeAt(api, clock).load()).signer).toEqual(first.signer);
    clock.ms += 2000;
    const { signer, bundlePem } = await storeAt(api, clock).load();
    expect(signer.certificatePem).not.toBe(first.signer.certificatePem);
    expect(bundlePem).toBe(rotated.bundlePem);
    expect(bundlePem.startsWith(signer.certificatePem)).toBe(true);
  });

  it('keeps the key of the one before only until it signs itself', async () => {
    const { api, keys, writes } = secretStore();
    const clock = { ms: Date.now() };
    const first = await storeAt(api, clock).load();
    clock.ms += 490 * DAY;
    await storeAt(api, clock).load();
    clock.ms += SIGN_AFTER_MS - 2000;
    await storeAt(api, clock).load();
    expect(keys()).toContain('previous-ca.key');
    clock.ms += 2000;
    const [one, two] = await Promise.all([storeAt(api, clock).load(), storeAt(api, clock).load()]);
    expect(keys()).toEqual(['ca.crt', 'ca.key', 'previous-ca.crt']);
    expect(one).toEqual(two);
    expect(one.bundlePem).toBe(one.signer.certificatePem + first.bundlePem);
    await storeAt(api, clock).load();
    expect(writes()).toBe(3);
  });

  it('signs at once when nothing of the one before is left to sign with', async () => {
    const { api, lose } = secretStore();
    const clock = { ms: Date.now() };
    const first = await storeAt(api, clock).load();
    clock.ms += 490 * DAY;
    await storeAt(api, clock).load();
    lose('previous-ca.key');
    const { signer, bundlePem } = await storeAt(api, clock).load();
    expect(signer.certificatePem).not.toBe(first.signer.certificatePem);
    expect(bundlePem).toBe(signer.certificatePem + first.bundlePem);
  });

  it('is made anew when the Secret was damaged', async () => {
    const { api, writes, lose } = secretStore();
    const clock = { ms: Date.now() };
    await storeAt(api, clock).load();
    lose('ca.key');
    await storeAt(api, clock).load();
    expect(writes()).toBe(2);
  });

  it('issues serving certificates for a week, due after two thirds of it', async () => {
    const { api } = secretStore();
    const nowMs = Date.now();
    const { signer } = await storeAt(api, { ms: nowMs }).load();
    const leaf = issueServing(signer, ['hub.own.svc', '127.0.0.1'], nowMs);
    const certificate = new X509Certificate(leaf.certificatePem);
    expect(isSignedBy(leaf.certificatePem, signer.certificatePem)).toBe(true);
    expect(certificate.validToDate.getTime() - nowMs).toBeLessThanOrEqual(7 * DAY);
    expect(isDue(leaf.certificatePem, nowMs + 4 * DAY)).toBe(false);
    expect(isDue(leaf.certificatePem, nowMs + 5 * DAY)).toBe(true);
  });
});
