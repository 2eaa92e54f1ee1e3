// The operator's authority rotates under a running operator: what it signs with is trusted everywhere before it does, by pods that have
// the old bundle and by those that have the new one, and by the API server that calls the webhook.
import { X509Certificate } from 'node:crypto';
import { connect } from 'node:tls';
import type { V1ConfigMap, V1MutatingWebhookConfiguration, V1Pod, V1Secret } from '@kubernetes/client-node';
import { expect, it } from 'vitest';
import { FakeSidecar } from '../../test/control-plane/fake-sidecar.ts';
import { eventually, OperatorWorld, type Shop } from '../../test/control-plane/operator-world.ts';
import { apiVersionOf, resources } from '../kubernetes/resources.ts';
import { hasSidecar } from '../kubevirt/launcher-pod.ts';
import { AUTHORITY_CONFIG_MAP, AUTHORITY_SECRET, WEBHOOK_CONFIGURATION } from '../operator.ts';
import { createAuthority, type KeyAndCertificate } from './x509.ts';

const DAY_MS = 86_400_000;
/** Until the old authority is due: enough for the operator to start and for a VM. */
const DUE_IN_MS = 15_000;
const SIGN_AFTER_MS = 6000;

it('a new authority is published, then signs; sidecars with the old bundle and with the new one connect', async () => {
  const world = await OperatorWorld.start();
  try {
    world.settings.certificates = { checkMs: 300, signAfterMs: SIGN_AFTER_MS };
    const old = await agedAuthority(world);
    await world.startOperator();
    const shop = await world.shop();
    expect(await trusted(world, shop)).toEqual([bundle(old.certificatePem)]);
    expect(await isServedBy(world, old.certificatePem)).toBe(true);

    const both = await eventually(async () => {
      const [pem, ...others] = await trusted(world, shop);
      expect(pem).not.toBe(bundle(old.certificatePem));
      expect(others).toEqual([]);
      return pem ?? '';
    }, 2 * DUE_IN_MS);
    expect(both).toContain(old.certificatePem.trim());
    // Pods whose kubelet has not been there yet.
    expect(await isServedBy(world, old.certificatePem)).toBe(true);
    await connectsWith(world, shop.vm.pod, old.certificatePem);

    const next = both.replace(old.certificatePem.trim(), '').trim();
    await eventually(async () => expect(await isServedBy(world, next)).toBe(true));
    expect(await isServedBy(world, old.certificatePem)).toBe(false);
    await eventually(async () =>
      expect(await secretKeys(world)).toEqual(['ca.crt', 'ca.key', 'previous-ca.crt']),
    );
    const web = await world.kubevirt.vm(shop.namespace, 'web', 'node-1');
    expect(hasSidecar(web.pod)).toBe(true);
    await connectsWith(world, web.pod, next);
  } finally {
    await world.stop();
  }
}, 180_000);

/** In the Secret, as an operator made it long ago. */
async function agedAuthority(world: OperatorWorld): Promise<KeyAndCertificate> {
  const lifeMs = 30 * DAY_MS;
  const fromMs = Date.now() + DUE_IN_MS - (lifeMs * 2) / 3;
  const pair = createAuthority('nas-aware-migration', new Date(fromMs), new Date(fromMs + lifeMs));
  const encode = (text: string) => Buffer.from(text).toString('base64');
  await world.api.create<V1Secret>(resources.secrets, {
    apiVersion: apiVersionOf(resources.secrets),
    kind: resources.secrets.kind,
    metadata: { namespace: world.settings.namespace, name: AUTHORITY_SECRET },
    data: { 'ca.crt': encode(pair.certificatePem), 'ca.key': encode(pair.keyPem) },
  });
  return pair;
}

async function secretKeys({ api, settings }: OperatorWorld): Promise<string[]> {
  const { data } = await api.get<V1Secret>(resources.secrets, settings.namespace, AUTHORITY_SECRET);
  return Object.keys(data ?? {}).sort();
}

/** What pods of the namespace and the API server trust: one bundle when they agree. */
async function trusted({ api }: OperatorWorld, { namespace }: Shop): Promise<string[]> {
  const [{ data }, { webhooks }] = await eventually(() =>
    Promise.all([
      api.get<V1ConfigMap>(resources.configMaps, namespace, AUTHORITY_CONFIG_MAP),
      api.get<V1MutatingWebhookConfiguration>(resources.mutatingWebhooks, undefined, WEBHOOK_CONFIGURATION),
    ]),
  );
  const caBundle = webhooks?.[0]?.clientConfig.caBundle ?? '';
  const pems = [data?.['ca.crt'] ?? '', Buffer.from(caBundle, 'base64').toString()];
  return [...new Set(pems.map(bundle))];
}

function bundle(pem: string): string {
  return pem.trim();
}

async function connectsWith({ api, settings }: OperatorWorld, pod: V1Pod, caPem: string): Promise<void> {
  const sidecar = await FakeSidecar.start({ api, pod, hubUrl: settings.hubUrl, caPem });
  try {
    await eventually(() => expect(sidecar.client.connected).toBe(true));
  } finally {
    await sidecar.stop();
  }
}

/** Whether who trusts only this authority connects to the hub. */
function isServedBy({ settings: { hubPort } }: OperatorWorld, ca: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port: hubPort, ca }, () => {
      const { raw } = socket.getPeerX509Certificate() ?? {};
      resolve(raw !== undefined && new X509Certificate(raw).verify(new X509Certificate(ca).publicKey));
      socket.destroy();
    });
    socket.on('error', () => resolve(false));
  });
}
