// Where the end-to-end suites get their cluster from: a driver by name, so that the same files run on another kind of cluster.
// NASMIG_E2E_CLUSTER names it; the lab unless said otherwise.

import { KindCluster } from '../kind/kind-cluster.ts';
import type { ClusterDriver, ClusterOptions } from './driver.ts';
import { LabCluster } from './lab-cluster.ts';

const DRIVERS: Readonly<Record<string, (options: ClusterOptions) => Promise<ClusterDriver>>> = {
  lab: (options) => LabCluster.start(options),
  kind: (options) => KindCluster.start(options),
};

/** NASMIG_E2E_CLUSTER names no driver. */
export class UnknownClusterError extends Error {
  readonly code = 'NASMIG_E2E_CLUSTER';
  constructor(name: string) {
    super(`NASMIG_E2E_CLUSTER is "${name}"; there is a driver for: ${Object.keys(DRIVERS).join(', ')}`);
    this.name = 'UnknownClusterError';
  }
}

/** A cluster with the operator leading on it. Throws {@link UnknownClusterError}. */
export async function startCluster(
  options: ClusterOptions = {},
  name = process.env['NASMIG_E2E_CLUSTER'] ?? 'lab',
): Promise<ClusterDriver> {
  const start = DRIVERS[name];
  if (start === undefined) throw new UnknownClusterError(name);
  return start(options);
}
