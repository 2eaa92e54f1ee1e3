// Makes the VirtualMachineInstanceMigration of a NasAwareMigration: always under the same name and with it as its owner, so that what was
// made before is found again. Tells a refusal, which is final, from what passes; remembers what it made until that is in the status.
import { type ApiClient, ApiError, isAlreadyExists, isConflict } from '../kubernetes/api-client.ts';
import { apiVersionOf, resources } from '../kubernetes/resources.ts';
import type { KubevirtObject } from './caches.ts';
import type { Migration } from './snapshot.ts';

/** An API server that has just started may not have read its roles yet; after this long the right is really missing. */
const MISSING_RIGHT_GRACE_MS = 15_000;

const resource = resources.virtualMachineInstanceMigrations;

/** Its UID, or why there will be none. */
export type Made = { uid: string } | { refusal: string };

export class MigrationMaker {
  readonly #api: Pick<ApiClient, 'create' | 'get'>;
  readonly #now: () => number;
  /** By the UID of the NasAwareMigration. */
  readonly #made = new Map<string, string>();
  readonly #forbiddenSince = new Map<string, number>();

  constructor(api: Pick<ApiClient, 'create' | 'get'>, now: () => number) {
    this.#api = api;
    this.#now = now;
  }

  /** The UID of what was made for it by this process. */
  madeFor(migrationUid: string): string | undefined {
    return this.#made.get(migrationUid);
  }

  /** It is finished or gone. */
  forget(migrationUid: string): void {
    this.#made.delete(migrationUid);
    this.#forbiddenSince.delete(migrationUid);
  }

  /** Throws what may pass: it is to be tried again. */
  async make(name: string, migration: Migration): Promise<Made> {
    try {
      const created = await this.#api.create<KubevirtObject>(resource, objectFor(name, migration));
      return this.#remember(migration, created);
    } catch (error) {
      if (isAlreadyExists(error)) {
        const there = await this.#api.get<KubevirtObject>(resource, migration.namespace, name);
        if (there.metadata?.ownerReferences?.some(({ uid }) => uid === migration.uid) === true)
          return this.#remember(migration, there);
      } else if (!isRefusal(error) || (isMissingRight(error) && this.#mayStillCome(migration.uid))) {
        throw error;
      }
      // KubeVirt's admission, a quota, or an object of the same name: trying again would only say the same.
      const words = error instanceof Error ? error.message : String(error);
      return {
        refusal: `${name} was refused; remove what refuses it, then make another NasAwareMigration: ${words}`,
      };
    }
  }

  #remember(migration: Migration, { metadata }: KubevirtObject): Made {
    const uid = metadata?.uid ?? '';
    this.#made.set(migration.uid, uid);
    return { uid };
  }

  #mayStillCome(migrationUid: string): boolean {
    const sinceMs = this.#forbiddenSince.get(migrationUid) ?? this.#now();
    this.#forbiddenSince.set(migrationUid, sinceMs);
    return this.#now() - sinceMs < MISSING_RIGHT_GRACE_MS;
  }
}

function objectFor(name: string, migration: Migration): KubevirtObject {
  const nodeSelector = migration.spec.target?.nodeSelector;
  return {
    apiVersion: apiVersionOf(resource),
    kind: resource.kind,
    metadata: {
      namespace: migration.namespace,
      name,
      ownerReferences: [
        {
          apiVersion: apiVersionOf(resources.nasAwareMigrations),
          kind: resources.nasAwareMigrations.kind,
          name: migration.name,
          uid: migration.uid,
          controller: true,
          blockOwnerDeletion: false,
        },
      ],
    },
    spec: {
      vmiName: migration.spec.vmiName,
      ...(nodeSelector === undefined ? {} : { addedNodeSelector: nodeSelector }),
    } as { vmiName: string },
  };
}

/** The request itself is wrong in the API server's eyes, so that repeating it is useless. */
function isRefusal(error: unknown): boolean {
  return error instanceof ApiError && [400, 403, 405, 409, 422].includes(error.status) && !isConflict(error);
}

/** The authorizer's words for an account without the right; admission and quotas have others. */
function isMissingRight(error: unknown): boolean {
  return (
    error instanceof ApiError &&
    error.status === 403 &&
    /is forbidden: User "[^"]*" cannot create resource "virtualmachineinstancemigrations"/.test(error.message)
  );
}
