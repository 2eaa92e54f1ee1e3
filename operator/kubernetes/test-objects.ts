// An API server's objects in memory, behind the methods of ApiClient that informers and the controller use: for tests of what they do with
// objects. What the real one checks, it does not.
import type { IncomingMessage } from 'node:http';
import { PassThrough } from 'node:stream';
import type { KubernetesListObject, KubernetesObject } from '@kubernetes/client-node';
import { type ApiClient, ApiError } from './api-client.ts';
import { keyOf, type Resource, resourceOfPath } from './resources.ts';

type Stored = KubernetesObject & { status?: unknown };

export class TestObjects {
  /** `create virtualmachineinstancemigrations shop/db` and the like, in order. */
  readonly calls: string[] = [];
  /** Thrown in place of an answer, the first that is asked for by its call. */
  readonly failures: { call: string; error: Error }[] = [];
  readonly #objects = new Map<string, Map<string, Stored>>();
  readonly #watches = new Map<string, Set<PassThrough>>();
  /** Resources whose watches tell nothing for now, with what they would have told. */
  readonly #held = new Map<string, string[]>();
  #version = 1;

  get client(): ApiClient {
    return this as unknown as ApiClient;
  }

  of<T extends Stored = Stored>({ plural }: Resource): T[] {
    return [...this.#of(plural).values()] as T[];
  }

  /** Caches do not see changes of this resource until it is let go. */
  hold({ plural }: Resource): void {
    this.#held.set(plural, []);
  }

  letGo({ plural }: Resource): void {
    const lines = this.#held.get(plural) ?? [];
    this.#held.delete(plural);
    for (const line of lines) this.#write(plural, line);
  }

  /** As somebody else does it: no call is counted. */
  put<T extends Stored>({ plural }: Resource, object: T): T {
    const { metadata } = object;
    this.#version += 1;
    const stored = {
      ...object,
      metadata: { uid: `uid-${this.#version}`, ...metadata, resourceVersion: String(this.#version) },
    };
    const isNew = !this.#of(plural).has(keyOf(stored));
    this.#of(plural).set(keyOf(stored), stored);
    this.#tell(plural, isNew ? 'ADDED' : 'MODIFIED', stored);
    return structuredClone(stored);
  }

  remove({ plural }: Resource, key: string): void {
    const object = this.#of(plural).get(key);
    if (object === undefined) return;
    this.#of(plural).delete(key);
    this.#version += 1;
    const metadata = { ...object.metadata, resourceVersion: String(this.#version) };
    this.#tell(plural, 'DELETED', { ...object, metadata });
  }

  async list<T extends Stored>({ plural }: Resource): Promise<KubernetesListObject<T>> {
    const items = structuredClone([...this.#of(plural).values()]) as T[];
    return { metadata: { resourceVersion: String(this.#version) }, items } as KubernetesListObject<T>;
  }

  async open(
    _method: string,
    path: string,
    _settings: unknown,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const stream = Object.assign(new PassThrough(), { statusCode: 200 });
    const plural = resourceOfPath(path);
    const watches = this.#watches.get(plural) ?? new Set();
    this.#watches.set(plural, watches.add(stream));
    signal.addEventListener('abort', () => stream.end());
    return stream as unknown as IncomingMessage;
  }

  async get<T extends Stored>(resource: Resource, namespace: string, name: string): Promise<T> {
    this.#begin('get', resource, `${namespace}/${name}`);
    return structuredClone(this.#there(resource, `${namespace}/${name}`)) as T;
  }

  async create<T extends Stored>(resource: Resource, object: T): Promise<T> {
    this.#begin('create', resource, keyOf(object));
    if (this.#of(resource.plural).has(keyOf(object)))
      throw new ApiError('POST', '', 409, 'AlreadyExists', 'there is one');
    return this.put(resource, object);
  }

  async apply<T extends Stored>(resource: Resource, object: T): Promise<T> {
    this.#begin('apply', resource, keyOf(object));
    return this.put(resource, { ...this.#there(resource, keyOf(object)), status: object.status } as T);
  }

  async mergePatch<T extends Stored>(
    resource: Resource,
    namespace: string,
    name: string,
    patch: Stored,
  ): Promise<T> {
    this.#begin('patch', resource, `${namespace}/${name}`);
    const there = this.#there(resource, `${namespace}/${name}`);
    return this.put(resource, { ...there, metadata: { ...there.metadata, ...patch.metadata } } as T);
  }

  async delete(resource: Resource, namespace: string, name: string): Promise<void> {
    this.#begin('delete', resource, `${namespace}/${name}`);
    this.remove(resource, `${namespace}/${name}`);
  }

  #begin(verb: string, { plural }: Resource, key: string): void {
    this.calls.push(`${verb} ${plural} ${key}`);
    const at = this.failures.findIndex(({ call }) => call === `${verb} ${plural}`);
    const [failure] = at === -1 ? [] : this.failures.splice(at, 1);
    if (failure !== undefined) throw failure.error;
  }

  #there({ plural }: Resource, key: string): Stored {
    const object = this.#of(plural).get(key);
    if (object === undefined) throw new ApiError('GET', '', 404, 'NotFound', `there is no ${plural} ${key}`);
    return object;
  }

  #of(plural: string): Map<string, Stored> {
    const objects = this.#objects.get(plural) ?? new Map();
    this.#objects.set(plural, objects);
    return objects;
  }

  #tell(plural: string, type: string, object: Stored): void {
    const line = `${JSON.stringify({ type, object })}\n`;
    const held = this.#held.get(plural);
    if (held === undefined) this.#write(plural, line);
    else held.push(line);
  }

  #write(plural: string, line: string): void {
    for (const stream of this.#watches.get(plural) ?? []) stream.write(line);
  }
}
