// Where the migration sockets are, from the environment. Apart from agent-config.ts because it is needed in the process's
// first milliseconds, when nothing else is loaded.

import { join } from 'node:path';

/** The pod's `public` volume, as compute and, by injection, the sidecar mount it. */
const DEFAULT_RUN_DIRECTORY = '/var/run/kubevirt';

export function socketDirectoryFrom(env: Readonly<Record<string, string | undefined>>): string {
  return join(env['NASMIG_RUN_DIR'] ?? DEFAULT_RUN_DIRECTORY, 'migrationproxy');
}
