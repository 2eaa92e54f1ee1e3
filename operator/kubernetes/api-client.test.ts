// The client against an API server in trouble: throttled, overloaded, conflicting, answering nonsense, or not at all.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ApiClient, ApiError, ApiUnreachableError, isAlreadyExists, isConflict } from './api-client.ts';
import { resources } from './resources.ts';
import { json, refusal, TestApiServer } from './test-api-server.ts';

let server: TestApiServer;
let api: ApiClient;
let seen: string[];

beforeEach(async () => {
  server = await TestApiServer.start();
  seen = [];
  api = new ApiClient(server.access, {
    userAgent: 'test',
    onRequest: (method, resource, status) => void seen.push(`${method} ${resource} ${status}`),
  });
});

afterEach(async () => {
  api.close();
  await server.stop();
});

const get = () => api.get(resources.pods, 'shop', 'x');

describe('a request', () => {
  it.each([429, 503])(
    'that is answered %i with Retry-After is sent again after that time',
    async (status) => {
      server.answers = [
        refusal(status, 'TooManyRequests', { 'retry-after': '1' }),
        json(200, { kind: 'Pod' }),
      ];
      const startedAt = performance.now();
      expect(await get()).toEqual({ kind: 'Pod' });
      expect(performance.now() - startedAt).toBeGreaterThan(990);
      expect(seen).toEqual([`GET pods ${status}`, 'GET pods 200']);
    },
  );

  it('that is throttled for ever fails after a few attempts', async () => {
    server.answers = [refusal(429, 'TooManyRequests', { 'retry-after': '0' })];
    await expect(get()).rejects.toMatchObject({ status: 429, reason: 'TooManyRequests' });
    expect(seen).toHaveLength(5);
  });

  it.each([
    ['429 without a time', refusal(429, 'TooManyRequests')],
    ['500', refusal(500, 'InternalError', { 'retry-after': '0' })],
    ['a time that is none', refusal(429, 'TooManyRequests', { 'retry-after': 'soon' })],
  ])('is not repeated at once after %s: that is for who has a back-off', async (_what, answer) => {
    server.answers = [answer];
    await expect(get()).rejects.toBeInstanceOf(ApiError);
    expect(seen).toHaveLength(1);
  });

  it('that meets a conflict says so, and tells it from a name that is taken', async () => {
    server.answers = [refusal(409, 'Conflict'), refusal(409, 'AlreadyExists')];
    const conflict: unknown = await get().catch((error: unknown) => error);
    const exists: unknown = await get().catch((error: unknown) => error);
    expect([isConflict(conflict), isAlreadyExists(conflict)]).toEqual([true, false]);
    expect([isConflict(exists), isAlreadyExists(exists)]).toEqual([false, true]);
  });

  it.each([
    ['nothing', (_: unknown, response: { destroy(): unknown }) => void response.destroy()],
    [
      'half an answer',
      (_: unknown, response: import('node:http').ServerResponse) => {
        response.writeHead(200, { 'content-length': '100' });
        response.write('{"kind":');
        setTimeout(() => response.destroy(), 20);
      },
    ],
    ['a page that is not JSON', (_: unknown, r: import('node:http').ServerResponse) => void r.end('<html>')],
  ])('that gets %s is one without an answer', async (_what, answer) => {
    server.answers = [answer];
    await expect(get()).rejects.toBeInstanceOf(ApiUnreachableError);
  });

  it('ends at its deadline when the API server hangs', async () => {
    server.answers = [() => {}];
    await expect(api.call('GET', '/api/v1/pods', { timeoutMs: 50 })).rejects.toBeInstanceOf(
      ApiUnreachableError,
    );
  });

  it('that is refused by something else than an API server still says what it was', async () => {
    server.answers = [(_request, response) => response.writeHead(502).end('<h1>Bad gateway</h1>')];
    await expect(get()).rejects.toThrow(/502 .*Bad gateway/);
  });
});

describe('server-side apply', () => {
  it('names its manager, and takes its fields from whoever has them', async () => {
    let body = '';
    let type = '';
    server.answers = [
      (request, response, text) => {
        body = text;
        type = request.headers['content-type'] ?? '';
        response.end('{}');
      },
    ];
    await api.apply(
      resources.nasAwareMigrations,
      { metadata: { namespace: 'n', name: 'a' } },
      'me',
      'status',
    );
    expect(server.requests).toEqual([
      'PATCH /apis/nasmigration.io/v1alpha1/namespaces/n/nasawaremigrations/a/status?fieldManager=me&force=true',
    ]);
    expect(type).toBe('application/apply-patch+yaml');
    expect(JSON.parse(body)).toEqual({
      apiVersion: 'nasmigration.io/v1alpha1',
      kind: 'NasAwareMigration',
      metadata: { namespace: 'n', name: 'a' },
    });
  });
});

describe('delete', () => {
  it('names the object that was meant by its UID, and takes one that is gone as deleted', async () => {
    let body = '';
    server.answers = [
      (_request, response, text) => {
        body = text;
        response.writeHead(404).end('{"reason":"NotFound"}');
      },
    ];
    await api.delete(resources.pods, 'shop', 'x', 'uid-1');
    expect(JSON.parse(body)).toMatchObject({ preconditions: { uid: 'uid-1' } });
  });
});
