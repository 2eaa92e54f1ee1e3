import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { issueServing } from './authority.ts';
import { MountedCertificateError, readMountedCertificate } from './mounted-certificate.ts';
import { createAuthority } from './x509.ts';

const authority = createAuthority('ca', new Date(Date.now() - 1000), new Date(Date.now() + 86_400_000));
const serving = issueServing(authority, ['webhook.example.svc'], Date.now());
let directory: string;

const put = (name: string, content: string) => writeFile(path.join(directory, name), content);

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'nasmig-certificate-'));
  await put('tls.crt', serving.certificatePem);
  await put('tls.key', serving.keyPem);
  await put('ca.crt', authority.certificatePem);
});

afterEach(() => rm(directory, { recursive: true, force: true }));

describe('mounted certificate', () => {
  it('is read with the authority to trust', async () => {
    expect(await readMountedCertificate(directory)).toEqual({
      ...serving,
      authorityPem: authority.certificatePem,
    });
  });

  it('is its own authority when there is no other', async () => {
    await rm(path.join(directory, 'ca.crt'));
    expect((await readMountedCertificate(directory)).authorityPem).toBe(serving.certificatePem);
  });

  it.each([
    ['tls.crt', 'no PEM'],
    ['tls.key', issueServing(authority, ['other'], Date.now()).keyPem],
    ['ca.crt', 'no PEM'],
  ])('is refused as long as %s is wrong, as in the middle of a renewal', async (name, content) => {
    await put(name, content);
    const attempt = readMountedCertificate(directory);
    await expect(attempt).rejects.toBeInstanceOf(MountedCertificateError);
    await expect(attempt).rejects.toThrow(name);
  });
});
