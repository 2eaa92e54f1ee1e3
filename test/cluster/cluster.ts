// What suites and the demo do with a cluster, whatever it is made of: apply files, wait for what a NasAwareMigration says, and
// read it back as its schema has it.

import { resolve } from 'node:path';
import {
  type NasAwareMigrationStatus,
  nasAwareMigrationStatusSchema,
} from '../../crds/nas-aware-migration.ts';
import type { MigrationObject } from '../../operator/controller/snapshot.ts';
import { isNotFound } from '../../operator/kubernetes/api-client.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import type { ClusterDriver } from './driver.ts';

const EXAMPLES = resolve(import.meta.dirname, '../../examples');
const POLL_MS = 100;

/** A NasAwareMigration did not come to the awaited state. */
export class MigrationTimeoutError extends Error {
  readonly code = 'NASMIG_LAB_MIGRATION_TIMEOUT';
  constructor(name: string, wanted: string, timeoutMs: number, status: NasAwareMigrationStatus | undefined) {
    super(
      `${name} is not ${wanted} after ${timeoutMs} ms but ${JSON.stringify(status)}; see the operator's and the cluster's logs`,
    );
    this.name = 'MigrationTimeoutError';
  }
}

export class Cluster {
  readonly driver: ClusterDriver;

  constructor(driver: ClusterDriver) {
    this.driver = driver;
  }

  /** `kubectl apply -f examples/<file>`. */
  async applyExample(file: string): Promise<void> {
    await this.driver.kubectl(['apply', '-f', resolve(EXAMPLES, file)]);
  }

  /** `kubectl apply -f -` of one object. */
  async apply(object: object): Promise<void> {
    await this.driver.kubectl(['apply', '-f', '-'], JSON.stringify(object));
  }

  /** Undefined when there is no such object. */
  async migrationStatus(namespace: string, name: string): Promise<NasAwareMigrationStatus | undefined> {
    try {
      const object = await this.driver.api.get<MigrationObject>(
        resources.nasAwareMigrations,
        namespace,
        name,
      );
      return nasAwareMigrationStatusSchema.parse(object.status ?? {});
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  /** Waits until the status is as `isSo` wants it. Throws {@link MigrationTimeoutError}. */
  async waitForMigration(
    namespace: string,
    name: string,
    wanted: string,
    isSo: (status: NasAwareMigrationStatus) => boolean,
    timeoutMs: number,
  ): Promise<NasAwareMigrationStatus> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const status = await this.migrationStatus(namespace, name);
      if (status !== undefined && isSo(status)) return status;
      if (performance.now() > deadline) throw new MigrationTimeoutError(name, wanted, timeoutMs, status);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Waits for the end, whichever it is. */
  waitForEnd(namespace: string, name: string, timeoutMs: number): Promise<NasAwareMigrationStatus> {
    const ends = new Set(['Succeeded', 'Failed', 'Cancelled']);
    return this.waitForMigration(namespace, name, 'over', ({ phase }) => ends.has(phase ?? ''), timeoutMs);
  }
}
