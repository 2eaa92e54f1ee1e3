// The cache against an API server in trouble: whatever is dropped, compacted or missed, it ends with what is there, and its handlers
// are told of every change once.
import type { KubernetesObject } from '@kubernetes/client-node';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ApiClient } from './api-client.ts';
import { Informer, type InformerOptions } from './informer.ts';
import { resources } from './resources.ts';
import { type Answer, json, refusal, TestApiServer, watch } from './test-api-server.ts';

let server: TestApiServer;
let api: ApiClient;
let informer: Informer<KubernetesObject>;
let told: string[];
let problems: string[];

beforeEach(async () => {
  server = await TestApiServer.start();
  api = new ApiClient(server.access, { userAgent: 'test' });
  told = [];
  problems = [];
});

afterEach(async () => {
  await informer.stop();
  api.close();
  await server.stop();
});

const object = (name: string, version: number) => ({
  metadata: { namespace: 'shop', name, uid: name, resourceVersion: String(version) },
});
const list = (version: number, items: object[], token = '') =>
  json(200, { metadata: { resourceVersion: String(version), continue: token }, items });
const event = (type: string, name: string, version: number) => ({ type, object: object(name, version) });
/** A watch that says nothing more. */
const quiet: Answer = watch([], false);

async function start(answers: Answer[], options: InformerOptions<KubernetesObject> = {}): Promise<void> {
  server.answers = answers;
  informer = new Informer(api, resources.pods, {
    onProblem: (problem) => void problems.push(problem),
    ...options,
  });
  informer.onChange(({ current, previous }) => {
    const { name, resourceVersion } = (current ?? previous)?.metadata ?? {};
    const what = current === undefined ? '-' : previous === undefined ? '+' : '~';
    told.push(`${what}${name}@${resourceVersion}`);
  });
  informer.start();
  await informer.synced;
}

const eventually = (check: () => void) => vi.waitFor(check, { timeout: 10_000, interval: 10 });
const names = () => [...informer.values()].map(({ metadata }) => metadata?.name).sort();
const watchedFrom = () =>
  server.requests.flatMap((request) => /watch=true.*resourceVersion=(\d+)/.exec(request)?.[1] ?? []);

describe('informer', () => {
  it('lists in pages, and watches from the version of the last', async () => {
    await start([list(10, [object('a', 1)], 'more'), list(10, [object('b', 2)]), quiet]);
    expect(names()).toEqual(['a', 'b']);
    await eventually(() => expect(watchedFrom()).toEqual(['10']));
    expect(server.requests[1]).toContain('continue=more');
  });

  it('goes on from the last version it saw when a watch ends, bookmarks included', async () => {
    await start([
      list(10, [object('a', 1)]),
      watch([
        event('MODIFIED', 'a', 11),
        { type: 'BOOKMARK', object: { metadata: { resourceVersion: '20' } } },
      ]),
      watch([event('DELETED', 'a', 21)]),
      quiet,
    ]);
    await eventually(() => expect(watchedFrom()).toEqual(['10', '20', '21']));
    expect(told).toEqual(['+a@1', '~a@11', '-a@11']);
    expect(problems).toEqual([]);
  });

  it.each([
    ['as the answer to the watch', refusal(410, 'Expired')],
    [
      'as an event of the watch',
      watch([
        { type: 'ERROR', object: { kind: 'Status', code: 410, reason: 'Expired', message: 'too old' } },
      ]),
    ],
  ])('lists anew after 410 Gone %s, and tells what was missed', async (_where, gone) => {
    await start([
      list(10, [object('kept', 1), object('changed', 2), object('deleted', 3)]),
      gone,
      list(50, [object('kept', 1), object('changed', 40), object('new', 41)]),
      quiet,
    ]);
    await eventually(() => expect(watchedFrom()).toEqual(['10', '50']));
    expect(names()).toEqual(['changed', 'kept', 'new']);
    expect(told.slice(3).sort()).toEqual(['+new@41', '-deleted@3', '~changed@40']);
  });

  it('begins its list anew when the page it wants next is too old', async () => {
    await start([
      list(10, [object('a', 1)], 'more'),
      refusal(410, 'Expired'),
      list(20, [object('b', 15)]),
      quiet,
    ]);
    expect(names()).toEqual(['b']);
  });

  it('goes on after a watch that was cut in the middle of an event', async () => {
    const cut: Answer = (_request, response) => {
      response.writeHead(200);
      response.write(`${JSON.stringify(event('ADDED', 'b', 11))}\n{"type":"ADDED","obj`);
      setTimeout(() => server.cut(), 20);
    };
    await start([list(10, [object('a', 1)]), cut, watch([event('ADDED', 'c', 12)], false)]);
    await eventually(() => expect(names()).toEqual(['a', 'b', 'c']));
    expect(watchedFrom()).toEqual(['10', '11']);
    expect(problems.length).toBeGreaterThan(0);
  });

  it('tells nothing twice that a resumed watch repeats', async () => {
    await start([
      list(10, [object('a', 9)]),
      watch([event('ADDED', 'a', 9), event('MODIFIED', 'a', 11), event('MODIFIED', 'a', 11)], false),
    ]);
    await eventually(() => expect(told).toContain('~a@11'));
    expect(told).toEqual(['+a@9', '~a@11']);
  });

  it('comes back by itself after throttling and after an API server that is away', async () => {
    await start([
      refusal(429, 'TooManyRequests', { 'retry-after': '0' }),
      refusal(500, 'InternalError'),
      list(10, [object('a', 1)]),
      refusal(429, 'TooManyRequests'),
      (_request, response) => void response.destroy(),
      quiet,
    ]);
    await eventually(() => expect(watchedFrom()).toEqual(['10', '10', '10']));
    expect(names()).toEqual(['a']);
  });

  it('takes a watch that says nothing for dead, and goes on with another', async () => {
    await start([list(10, [object('a', 1)]), quiet, watch([event('ADDED', 'b', 11)], false)], {
      silenceMs: 100,
    });
    await eventually(() => expect(names()).toEqual(['a', 'b']));
    expect(watchedFrom().slice(0, 2)).toEqual(['10', '10']);
  });

  it('does not watch again at once when watches end at once, and goes on all the same', async () => {
    await start([list(10, [object('a', 1)]), watch([])]);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(watchedFrom().length).toBeLessThan(10);
    server.answers = [watch([event('ADDED', 'b', 11)], false)];
    await eventually(() => expect(names()).toEqual(['a', 'b']));
    expect(problems).toEqual([]);
  });

  it('does not ask faster and faster of an API server that only refuses', async () => {
    server.answers = [refusal(500, 'InternalError')];
    informer = new Informer(api, resources.pods);
    informer.start();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(server.requests.length).toBeLessThan(10);
  });
});
