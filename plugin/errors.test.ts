import { describe, expect, it } from 'vitest';
import { ApiError, ApiUnreachableError, toApiError } from '../operator/kubernetes/api-client.ts';
import { explainError, PluginError, UnreachableError } from './errors.ts';

const status = (code: number, reason: string, message: string) =>
  toApiError('GET', '/x', code, JSON.stringify({ kind: 'Status', reason, message }));

describe('errors in words', () => {
  it.each([
    ['/apis/nasmigration.io/v1alpha1/nasawaremigrations', 'nas-aware-migration is not installed'],
    ['/apis/kubevirt.io/v1/virtualmachineinstances', 'KubeVirt is not installed'],
    ['/apis/migrations.kubevirt.io/v1alpha1/migrationpolicies', 'KubeVirt is not installed'],
  ])('an API server that does not know %s', (path, words) => {
    // Of an unknown group it says so in plain text, of an unknown kind in a known group as a Status.
    for (const text of [
      '404 page not found\n',
      '{"kind":"Status","reason":"NotFound","message":"the server could not find the requested resource"}',
    ]) {
      const explained = explainError(toApiError('GET', path, 404, text));
      expect(explained.exit).toBe('notInstalled');
      expect(explained.message).toContain(words);
    }
  });

  it.each([
    [
      status(404, 'NotFound', 'nasawaremigrations.nasmigration.io "x" not found'),
      'notFound',
      '"x" not found',
    ],
    [status(401, 'Unauthorized', 'Unauthorized'), 'forbidden', 'Log in again'],
    [
      status(403, 'Forbidden', 'User "x" cannot list'),
      'forbidden',
      'User "x" cannot list\nAsk for the right',
    ],
    [status(409, 'AlreadyExists', 'there is one'), 'conflict', 'there is one'],
    [status(422, 'Invalid', 'spec.limits: must be above zero'), 'usage', 'must be above zero'],
    [status(500, 'InternalError', 'etcd'), 'failed', 'answered 500: etcd'],
    [new ApiUnreachableError('GET', '/x', 'reset'), 'unreachable', 'reset'],
    [
      new UnreachableError('https://10.0.0.1', 'connection refused'),
      'unreachable',
      'https://10.0.0.1: connection refused',
    ],
    [new PluginError('conflict', 'two of them', 'Name one.'), 'conflict', 'two of them\nName one.'],
    [new TypeError('oops'), 'failed', 'oops'],
    ['thrown text', 'failed', 'thrown text'],
  ])('%s', (error, exit, words) => {
    const explained = explainError(error);
    expect(explained.exit).toBe(exit);
    expect(explained.message).toContain(words);
    // Nothing here tries again by itself.
    expect(explained.message).not.toContain('tried again');
  });

  it('gives a page of a proxy as what it is', () => {
    const error = toApiError('GET', '/x', 502, '<html>Bad gateway</html>');
    expect(error).toBeInstanceOf(ApiError);
    expect(explainError(error)).toEqual({
      exit: 'failed',
      message: 'the API server answered 502: <html>Bad gateway</html>',
    });
  });
});
