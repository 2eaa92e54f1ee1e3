import type { IncomingMessage } from 'node:http';
import { afterEach, describe, expect, it } from 'vitest';
import { resources } from '../../operator/kubernetes/resources.ts';
import { explainError, UnreachableError } from '../errors.ts';
import { clientOf as client, closeServer } from '../testing/answering-server.ts';
import { vmi } from '../testing/objects.ts';
import { claimsOf } from './vms.ts';

afterEach(closeServer);

const named = (name: string, more: object = {}) => ({ metadata: { name, namespace: 'shop' }, ...more });

describe('the client of the plugin', () => {
  it('reads every page of a list, and says of each item what it is', async () => {
    const asked: string[] = [];
    const api = await client((url) => {
      asked.push(url.search);
      return url.searchParams.get('continue') === null
        ? { body: { items: [named('a')], metadata: { continue: 'more' } } }
        : { body: { items: [named('b')], metadata: {} } };
    });
    const all = await api.listAll(resources.nasAwareMigrations, 'shop', { labelSelector: 'a=b' });
    expect(all.map(({ apiVersion, kind, metadata }) => `${apiVersion} ${kind} ${metadata?.name}`)).toEqual([
      'nasmigration.io/v1alpha1 NasAwareMigration a',
      'nasmigration.io/v1alpha1 NasAwareMigration b',
    ]);
    expect(asked).toEqual(['?labelSelector=a%3Db&limit=500', '?labelSelector=a%3Db&limit=500&continue=more']);
  });

  it('acts as whom it is told, and says who it is', async () => {
    let headers: IncomingMessage['rawHeaders'] = [];
    const api = await client(
      (_url, request) => {
        headers = request.rawHeaders;
        return { body: {} };
      },
      {
        as: ['somebody'],
        'as-group': ['g1', 'g2'],
        'as-uid': ['u'],
        'as-user-extra': ['scopes=a,b', 'scopes=c', 'Example.org/Team=x=y'],
        token: ['t'],
      },
    );
    await api.call('GET', '/version');
    const pairs = headers.flatMap((name, at) =>
      at % 2 === 0 ? [`${name.toLowerCase()}: ${headers[at + 1]}`] : [],
    );
    for (const pair of [
      'impersonate-user: somebody',
      'impersonate-group: g1',
      'impersonate-group: g2',
      'impersonate-uid: u',
      'impersonate-extra-scopes: a,b',
      'impersonate-extra-scopes: c',
      'impersonate-extra-example.org%2fteam: x=y',
      'user-agent: kubectl-nasmig/test',
      'authorization: Bearer t',
    ])
      expect(pairs).toContain(pair);
  });

  it('waits no longer than it may', async () => {
    const api = await client(() => undefined, { 'request-timeout': ['100ms'] });
    const error = await api.call('GET', '/version').catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UnreachableError);
    expect((error as UnreachableError).message).toContain('it did not answer in time');
    await expect(api.text('/log')).rejects.toThrow(/did not answer in time/);
  });

  it('waits for somebody behind the API server no longer than the caller says', async () => {
    const api = await client(() => undefined);
    await expect(api.text('/proxy', {}, 100)).rejects.toThrow(/did not answer in time/);
  });

  it('reads text, and refusals of text', async () => {
    const api = await client((url) =>
      url.pathname === '/log'
        ? { body: 'line\n' }
        : { status: 403, body: { kind: 'Status', reason: 'Forbidden', message: 'no' } },
    );
    expect(await api.text('/log')).toBe('line\n');
    const error = await api.text('/other').catch((thrown: unknown) => thrown);
    expect(explainError(error)).toMatchObject({ exit: 'forbidden' });
  });
});

describe('what is behind claims', () => {
  const vms = (count: number) => Array.from({ length: count }, (_, at) => vmi(`vm${at}`));
  const answerFor = (forbidden: (path: string) => boolean, asked: string[]) => (url: URL) => {
    asked.push(url.pathname);
    if (forbidden(url.pathname))
      return { status: 403, body: { kind: 'Status', reason: 'Forbidden', message: 'no' } };
    const names = Array.from({ length: 20 }, (_, at) => `vm${at}-root`);
    const claim = (name: string) => named(name, { spec: { volumeName: `pv-${name}` } });
    const volume = (name: string) => named(`pv-${name}`, { spec: { nfs: { server: 'nas' } } });
    const last = url.pathname.split('/').at(-1) ?? '';
    if (last === 'persistentvolumeclaims') return { body: { items: names.map(claim), metadata: {} } };
    if (last === 'persistentvolumes') return { body: { items: names.map(volume), metadata: {} } };
    return { body: last.startsWith('pv-') ? volume(last.slice(3)) : claim(last) };
  };

  it.each([
    [3, 6],
    [20, 2],
  ])('of %d VMs takes %d requests', async (count, requests) => {
    const asked: string[] = [];
    const api = await client(answerFor(() => false, asked));
    const { drivers, unreadable } = await claimsOf(api, vms(count));
    expect([...drivers.values()]).toEqual(Array.from({ length: count }, () => 'nfs'));
    expect(unreadable.size).toBe(0);
    expect(asked).toHaveLength(requests);
  });

  it.each([3, 20])('of %d VMs whose volumes may not be read is not known', async (count) => {
    const api = await client(answerFor((path) => path.includes('persistentvolumes'), []));
    const { drivers, unreadable } = await claimsOf(api, vms(count));
    expect(drivers.size).toBe(0);
    expect(unreadable.size).toBe(count);
  });
});
