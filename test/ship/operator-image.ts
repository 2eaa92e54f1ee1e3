// The operator from the assembled image, by a real OCI runtime, in place of the process from this repository: as 107, which is nobody to
// it, with a read-only root and without capabilities. What it is given is its environment and its credentials.
import { randomBytes } from 'node:crypto';
import { chmod, chown, copyFile, mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { OperatorCommand } from '../cluster/operator-process.ts';
import { bundleConfiguration, CRUN } from '../oci/runtime-bundle.ts';

const USER = 107;
const CREDENTIALS = '/var/run/secrets/operator';

/** `dir`: where bundles are written. */
export function operatorInImage(rootfs: string, dir: string): OperatorCommand {
  return async (environment) => {
    const id = `nasmig-operator-${randomBytes(6).toString('hex')}`;
    const bundle = path.join(dir, id);
    const credentials = path.join(bundle, 'credentials');
    await mkdir(credentials, { recursive: true });
    const kubeconfig = path.join(credentials, 'kubeconfig');
    await copyFile(environment['KUBECONFIG'] ?? '', kubeconfig);
    await chown(kubeconfig, USER, USER);
    await chmod(kubeconfig, 0o400);
    const configuration = bundleConfiguration({
      rootfs,
      user: USER,
      argv: ['/usr/bin/node', 'operator/main.js'],
      environment: { ...environment, KUBECONFIG: `${CREDENTIALS}/kubeconfig` },
      mounts: [{ source: credentials, destination: CREDENTIALS }],
    });
    await writeFile(path.join(bundle, 'config.json'), JSON.stringify(configuration));
    return [...CRUN, 'run', '--bundle', bundle, id];
  };
}
