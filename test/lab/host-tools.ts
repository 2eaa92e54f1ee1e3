// What the lab runs on the host itself. Everything heavy comes from Debian roots; what is needed to make namespaces,
// links and roots must be here. Missing packages are installed where there is apt-get, and named where there is not.

import { access, constants } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from './run-command.ts';

/** Program, and the Debian package that has it. */
const TOOLS: Readonly<Record<string, string>> = {
  ip: 'iproute2',
  tc: 'iproute2',
  ss: 'iproute2',
  ethtool: 'ethtool',
  nsenter: 'util-linux',
  unshare: 'util-linux',
  setpriv: 'util-linux',
  mount: 'mount',
};

/** The lab makes namespaces, mounts and cgroups. */
export class NotRootError extends Error {
  readonly code = 'NASMIG_LAB_NOT_ROOT';
  constructor() {
    super(
      'the lab makes namespaces, mounts and cgroups and must run as root; run it with sudo, or in a privileged container',
    );
    this.name = 'NotRootError';
  }
}

/** A program the lab needs is missing and could not be installed. */
export class HostToolMissingError extends Error {
  readonly code = 'NASMIG_LAB_HOST_TOOL_MISSING';
  constructor(missing: readonly string[], packages: readonly string[]) {
    super(`the lab needs ${missing.join(', ')} on this host; install the package(s) ${packages.join(', ')}`);
    this.name = 'HostToolMissingError';
  }
}

/** Makes sure that the lab can run here. Throws NotRootError, HostToolMissingError. */
export async function ensureHostTools(): Promise<void> {
  if (process.getuid?.() !== 0) throw new NotRootError();
  let missing = await missingTools();
  if (missing.length === 0) return;
  if (await isOnPath('apt-get')) {
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    await runCommand(['apt-get', 'update', '-q'], { env });
    await runCommand(['apt-get', 'install', '-y', '-q', '--no-install-recommends', ...packagesOf(missing)], {
      env,
    });
    missing = await missingTools();
  }
  if (missing.length > 0) throw new HostToolMissingError(missing, packagesOf(missing));
}

async function missingTools(): Promise<string[]> {
  const missing: string[] = [];
  for (const tool of Object.keys(TOOLS)) if (!(await isOnPath(tool))) missing.push(tool);
  return missing;
}

function packagesOf(tools: readonly string[]): string[] {
  return [...new Set(tools.map((tool) => TOOLS[tool] ?? tool))];
}

async function isOnPath(program: string): Promise<boolean> {
  // Where a plain user's PATH does not look.
  const directories = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin'];
  for (const directory of directories) {
    if (directory === '') continue;
    const found = await access(join(directory, program), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return true;
  }
  return false;
}
