import { afterEach, describe, expect, it } from 'vitest';
import { operatorLabels } from '../cluster/installation.ts';
import { type Answer, clientOf, closeServer } from '../testing/answering-server.ts';
import { gatherFacts } from './facts.ts';

afterEach(closeServer);

const leader = {
  metadata: {
    namespace: 'nasmig',
    name: 'operator-1',
    labels: { ...operatorLabels, 'nasmigration.io/leader': 'true' },
  },
};

/** An API server that answers everything but the proxy to the operator's metrics. */
const cluster =
  (metrics: Answer): Answer =>
  (url, request) => {
    if (url.pathname.endsWith('/proxy/metrics')) return metrics(url, request);
    if (url.pathname === '/version') return { body: { major: '1', minor: '33', gitVersion: 'v1.33.1' } };
    if (url.pathname.includes('/deployments/')) return { body: { metadata: { namespace: 'nasmig' } } };
    return {
      body: { items: url.pathname.endsWith('/namespaces/nasmig/pods') ? [leader] : [], metadata: {} },
    };
  };

const where = { namespace: undefined, operatorNamespace: 'nasmig' };

describe("the operator's metrics through the API server", () => {
  it('say how many sidecars are connected', async () => {
    const api = await clientOf(cluster(() => ({ body: 'nasmig_hub_connections 12\n' })));
    expect((await gatherFacts(api, where, 0)).connectedSidecars).toEqual({ known: true, value: 12 });
  });

  it.each<[string, Answer, string]>([
    ['are not answered', () => undefined, 'no answer from pod operator-1: it did not answer in time'],
    [
      'may not be read',
      () => ({ status: 403, body: { reason: 'Forbidden', message: 'no' } }),
      'does not let you',
    ],
    ['are another page', () => ({ body: 'hello' }), 'no metric'],
    ['cannot be reached', () => ({ status: 503, body: 'dial tcp: i/o timeout' }), 'i/o timeout'],
  ])('that %s are not known, and all else is', async (_name, metrics, why) => {
    const api = await clientOf(cluster(metrics), { 'request-timeout': ['300ms'] });
    const { connectedSidecars, kubernetesVersion } = await gatherFacts(api, where, 0);
    expect(connectedSidecars).toMatchObject({ known: false, why: expect.stringContaining(why) });
    expect(kubernetesVersion.known).toBe(true);
  });
});
