// The webhook with a certificate that is not the operator's own, as `certManager.enabled` mounts it: the files of a Secret as
// cert-manager writes them, made by the test, because no cert-manager runs here. The API server trusts it and calls the webhook.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { KubernetesObject } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { issueServing } from '../../operator/certificates/authority.ts';
import { createAuthority } from '../../operator/certificates/x509.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { hasSidecar } from '../../operator/kubevirt/launcher-pod.ts';
import { WEBHOOK_CONFIGURATION } from '../../operator/operator.ts';
import { OperatorWorld } from '../control-plane/operator-world.ts';

const DAY_MS = 86_400_000;

let world: OperatorWorld;
let directory: string;
const authority = createAuthority(
  'theirs',
  new Date(Date.now() - DAY_MS),
  new Date(Date.now() + 30 * DAY_MS),
);

beforeAll(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'nasmig-certificate-'));
  const { certificatePem, keyPem } = issueServing(authority, ['127.0.0.1'], Date.now());
  await writeFile(path.join(directory, 'tls.crt'), certificatePem);
  await writeFile(path.join(directory, 'tls.key'), keyPem);
  await writeFile(path.join(directory, 'ca.crt'), authority.certificatePem);
  world = await OperatorWorld.start();
});

afterAll(async () => {
  await world?.stop();
  if (directory !== undefined) await rm(directory, { recursive: true, force: true });
});

async function caBundle(): Promise<string> {
  const webhook = await world.api.get<
    KubernetesObject & { webhooks?: { clientConfig: { caBundle?: string } }[] }
  >(resources.mutatingWebhooks, undefined, WEBHOOK_CONFIGURATION);
  return Buffer.from(webhook.webhooks?.[0]?.clientConfig.caBundle ?? '', 'base64').toString();
}

describe('webhook with a mounted certificate', () => {
  it('is registered with its authority, and injects', async () => {
    world.spawnOperator({ NASMIG_WEBHOOK_CERTIFICATE_DIR: directory });
    await world.operatorReady();
    expect(await caBundle()).toBe(authority.certificatePem);
    const { vm } = await world.shop();
    expect(hasSidecar(vm.pod)).toBe(true);
    // The hub's certificate is still the operator's own, which is what sidecars get.
    await world.sidecarOf(vm.pod);
    await world.stopSidecars();
    await world.killOperator('SIGTERM');
  });

  it('goes back to the operator’s own without it', async () => {
    world.spawnOperator();
    await world.operatorReady();
    expect(await caBundle()).not.toBe(authority.certificatePem);
    const { vm } = await world.shop();
    expect(hasSidecar(vm.pod)).toBe(true);
  });
});
