// What suites and the demo do with a cluster, whatever it is made of: apply files, wait for what a NasAwareMigration says, and
// read it back as its schema has it.

import { resolve } from 'node:path';
import type { KubernetesObject } from '@kubernetes/client-node';
import {
  type NasAwareMigrationSpec,
  type NasAwareMigrationStatus,
  nasAwareMigrationStatusSchema,
} from '../../crds/nas-aware-migration.ts';
import type { MigrationObject } from '../../operator/controller/snapshot.ts';
import { isNotFound } from '../../operator/kubernetes/api-client.ts';
import { type Resource, resources } from '../../operator/kubernetes/resources.ts';
import type { ClusterDriver, Guest, VmOptions } from './driver.ts';
import { getVmi, launcherPods, type Vmim } from './kubevirt-objects.ts';

const EXAMPLES = resolve(import.meta.dirname, '../../examples');
const POLL_MS = 100;
/** What the policy of the examples selects. */
export const ACCELERATED = { 'nasmigration.io/accelerate': 'true' };
const ENDS = new Set(['Succeeded', 'Failed', 'Cancelled']);

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
    return this.waitForMigration(namespace, name, 'over', ({ phase }) => ENDS.has(phase ?? ''), timeoutMs);
  }

  /** Until the object has this phase, and has not come to its end before. */
  async waitForPhase(
    namespace: string,
    name: string,
    phase: string,
    timeoutMs: number,
  ): Promise<NasAwareMigrationStatus> {
    const isThere = (status: NasAwareMigrationStatus): boolean =>
      status.phase === phase || ENDS.has(status.phase ?? '');
    const status = await this.waitForMigration(namespace, name, phase, isThere, timeoutMs);
    if (status.phase !== phase) throw new MigrationTimeoutError(name, phase, timeoutMs, status);
    return status;
  }

  /** A VM under the examples' policy in a namespace that is made for it, with its index ready. */
  async acceleratedVm(
    namespace: string,
    name: string,
    more: Partial<Omit<VmOptions, 'namespace' | 'name'>> = {},
  ): Promise<Guest> {
    await this.driver.createNamespace(namespace);
    const guest = await this.driver.createVm({
      namespace,
      name,
      ...{ guest: 'small', labels: ACCELERATED },
      ...more,
    });
    await this.driver.waitForIndex(namespace, name);
    return guest;
  }

  /** `kubectl apply` of a NasAwareMigration. */
  async migrate(
    namespace: string,
    name: string,
    vmiName: string,
    spec: Partial<NasAwareMigrationSpec> = {},
  ): Promise<void> {
    await this.apply({
      apiVersion: 'nasmigration.io/v1alpha1',
      kind: 'NasAwareMigration',
      metadata: { namespace, name },
      spec: { vmiName, ...spec },
    });
  }

  /** `kubectl delete` of a NasAwareMigration: it cancels, and returns when the object is gone. */
  async cancel(namespace: string, name: string, timeoutMs: number): Promise<void> {
    const waiting = [`--timeout=${Math.ceil(timeoutMs / 1000)}s`];
    await this.driver.kubectl(['delete', 'nasawaremigration', name, '--namespace', namespace, ...waiting]);
  }

  async list<T extends KubernetesObject>(resource: Resource, namespace?: string): Promise<T[]> {
    return (await this.driver.api.list<T>(resource, namespace)).items;
  }

  /** KubeVirt's migrations in a namespace, the oldest first. */
  async vmims(namespace: string): Promise<Vmim[]> {
    const items = await this.list<Vmim>(resources.virtualMachineInstanceMigrations, namespace);
    return items.sort((a, b) =>
      String(a.metadata.creationTimestamp).localeCompare(String(b.metadata.creationTimestamp)),
    );
  }

  /** Where KubeVirt says that a VM is. */
  async nodeOf(namespace: string, vmName: string): Promise<string | undefined> {
    return (await getVmi(this.driver.api, namespace, vmName))?.status?.nodeName;
  }

  /** The name of the pod that a VM is in. Throws when it is nowhere. */
  async podOf(namespace: string, vmName: string): Promise<string> {
    const vmi = await getVmi(this.driver.api, namespace, vmName);
    const pods = vmi === undefined ? [] : await launcherPods(this.driver.api, vmi);
    const home = pods.find(
      ({ spec, status }) => spec?.nodeName === vmi?.status?.nodeName && status?.phase === 'Running',
    );
    if (home?.metadata?.name === undefined) throw new Error(`VM ${vmName} is in no running pod`);
    return home.metadata.name;
  }

  /** Deletes a namespace with all that is in it, and returns when nothing runs in it any longer: machines are small. */
  async removeNamespace(namespace: string): Promise<void> {
    await this.driver.kubectl(['delete', 'namespace', namespace, '--wait=false']);
    await this.driver.waitForNoPods(namespace);
  }

  /** Waits until `isSo`, and throws in its words when it does not become so. */
  async waitUntil(what: string, timeoutMs: number, isSo: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (!(await isSo())) {
      if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms for ${what}`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}
