import { afterEach, describe, expect, it } from 'vitest';
import { Flags } from '../command-line.ts';
import { PluginError } from '../errors.ts';
import { clientOf, closeServer } from '../testing/answering-server.ts';
import { plainTerminal } from '../testing/objects.ts';
import type { VerbContext } from '../verb.ts';
import { cancel } from './cancel.ts';

afterEach(closeServer);

interface Played {
  spec?: object;
  vmim?: object;
}

/** Cancels the one record there is; returns the requests that change something. */
async function cancelled({ spec = {}, vmim }: Played): Promise<{ requests: string[]; error: unknown }> {
  const requests: string[] = [];
  const record = {
    metadata: {
      namespace: 'shop',
      name: 'adopted',
      uid: 'record',
      labels: { 'nasmigration.io/adopted': 'true' },
    },
    spec: { vmiName: 'db', ...spec },
    status: { phase: 'Running' },
  };
  const api = await clientOf((url, request) => {
    if (request.method !== 'GET') {
      requests.push(`${request.method} ${url.pathname}`);
      let body = '';
      request.on('data', (chunk) => {
        body += chunk;
      });
      request.on('end', () => requests.push(body));
      return { body: {} };
    }
    if (url.pathname.includes('virtualmachineinstancemigrations/'))
      return vmim === undefined
        ? {
            status: 404,
            body: { reason: 'NotFound', message: 'virtualmachineinstancemigrations "drain" not found' },
          }
        : { body: vmim };
    return { body: { items: [record], metadata: {} } };
  });
  const flags = new Flags(
    new Map([
      ['foreign', ['true']],
      ['no-wait', ['true']],
    ]),
  );
  const context = { api, flags, defaultNamespace: 'shop', words: ['adopted'], terminal: plainTerminal() };
  const error = await cancel.run(context as unknown as VerbContext).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  return { requests, error };
}

const drain = (vmiName: string) => ({ metadata: { name: 'drain', uid: 'u-1' }, spec: { vmiName } });

describe('cancel --foreign', () => {
  it('deletes the migration that the record is about, and no other of its name', async () => {
    const { requests, error } = await cancelled({ spec: { migrationName: 'drain' }, vmim: drain('db') });
    expect(error).toBeUndefined();
    expect(requests[0]).toBe(
      'DELETE /apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstancemigrations/drain',
    );
    expect(requests[1]).toContain('"preconditions":{"uid":"u-1"}');
  });

  it.each<[string, Played, string]>([
    ['that has no name', {}, 'does not say which migration'],
    ['that is gone', { spec: { migrationName: 'drain' } }, 'there is no migration drain of db'],
    [
      'of another VM',
      { spec: { migrationName: 'drain' }, vmim: drain('web') },
      'there is no migration drain',
    ],
  ])('of one %s deletes nothing', async (_name, played, words) => {
    const { requests, error } = await cancelled(played);
    expect(error).toBeInstanceOf(PluginError);
    expect((error as PluginError).message).toContain(words);
    expect(requests).toEqual([]);
  });
});
