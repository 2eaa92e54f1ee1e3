// The real sidecar in a launcher pod, started as the injected container starts it: process 1, the pod's network, the
// `public` volume and the disks, a token and the operator's CA, and the environment of the injection.

import { join, resolve } from 'node:path';
import { imageConfiguration } from '../../hack/ship/dockerfile.ts';
import type { Bind, Container } from './container.ts';
import { type CoordinatedPod, HUB_SERVER_NAME } from './coordinator.ts';
import { HUB_PORT } from './launcher-lab.ts';
import { type LauncherPod, POD_PATHS } from './launcher-pod.ts';

const CREDENTIALS_PATH = '/run/secrets/nasmigration.io';
const UP_TIMEOUT_MS = 20_000;
const ROOT = resolve(import.meta.dirname, '../..');

/** What the image sets besides the injection: options of Node before the program, and the environment. */
export const { nodeOptions: SIDECAR_NODE_FLAGS, env: SIDECAR_ENVIRONMENT } = imageConfiguration();

export interface AgentSidecarOptions {
  /** Directory with the compiled sidecar, see compileProgram(); else its sources are run. */
  readonly image?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly memoryLimitBytes?: number;
  readonly extraBinds?: readonly Bind[];
}

/** Starts it; resolves when it is up (its directory made, its volumes opened, dialing the hub). */
export async function startAgentSidecar(
  pod: LauncherPod,
  admitted: CoordinatedPod,
  options: AgentSidecarOptions = {},
): Promise<Container> {
  const { identity, credentials } = admitted;
  const { image } = options;
  const container = await pod.startSidecar({
    nodeArguments: [
      ...SIDECAR_NODE_FLAGS,
      image === undefined ? join(ROOT, 'sidecar/main.ts') : join(image, 'main.js'),
    ],
    extraBinds: [
      { from: credentials, to: CREDENTIALS_PATH, readOnly: true },
      ...(image === undefined ? [] : [{ from: image, to: image, readOnly: true }]),
      ...(options.extraBinds ?? []),
    ],
    ...(options.memoryLimitBytes === undefined ? {} : { memoryLimitBytes: options.memoryLimitBytes }),
    env: {
      ...SIDECAR_ENVIRONMENT,
      NASMIG_HUB_URL: `wss://${pod.gateway}:${HUB_PORT}`,
      NASMIG_HUB_SERVER_NAME: HUB_SERVER_NAME,
      NASMIG_TOKEN_FILE: join(CREDENTIALS_PATH, 'token'),
      NASMIG_CA_FILE: join(CREDENTIALS_PATH, 'ca.crt'),
      NASMIG_POD_NAMESPACE: identity.namespace,
      NASMIG_POD_NAME: identity.podName,
      NASMIG_POD_UID: identity.podUid,
      NASMIG_VMI_NAME: 'vm',
      NASMIG_VMI_UID: '6e61736d-6967-4000-8000-000000000001',
      NASMIG_RUN_DIR: `/var${POD_PATHS.public}`,
      NASMIG_VOLUMES_DIR: `/var${POD_PATHS.disks}`,
      NASMIG_LOG_LEVEL: 'debug',
      ...options.env,
    },
  });
  await container.process.waitForOutput(/"sidecar is up"/, UP_TIMEOUT_MS);
  return container;
}
