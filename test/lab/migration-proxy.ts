// The stand-in for virt-handler's two proxies, one process on each node, with TLS and client certificates between
// them as KubeVirt has it, or without for measurements that TLS would blur.

import { readdir } from 'node:fs/promises';
import { buildGoProgram } from './go-programs.ts';
import { MIGRATION_ADDRESS } from './network.ts';
import { type LabNode, QEMU_OWNER } from './node.ts';
import type { NodeProcess } from './node-process.ts';
import { runCommand } from './run-command.ts';

const READY_TIMEOUT_MS = 10_000;

export interface MigrationProxyOptions {
  /** Unique in each node. */
  name: string;
  /** Unix socket on the source node to listen on: made as root, then given to 107. */
  sourceListen: string;
  /** Unix socket on the target node to dial for each connection. Nobody need listen there yet. */
  targetDial: string;
  /** Directory for the certificates of the run; null: no TLS. */
  certificates: string | null;
}

/** Both proxies of one migration. */
export interface MigrationProxies {
  source: NodeProcess;
  target: NodeProcess;
  /** As virt-handler does after a migration: listeners closed, the source's socket path removed, connections ended. */
  stop(): Promise<void>;
}

/** Starts target's proxy, then source's, as KubeVirt does. Either node may be the source. Resolves when both listen. */
export async function startMigrationProxies(
  source: LabNode,
  target: LabNode,
  options: MigrationProxyOptions,
): Promise<MigrationProxies> {
  const program = await buildGoProgram('migration-proxy');
  const security =
    options.certificates === null
      ? ['--no-tls']
      : ['--certs', await ensureCertificates(program, options.certificates)];
  const targetProxy = await target.spawn({
    name: options.name,
    argv: [
      program,
      '--listen',
      `tcp:${migrationAddress(target)}:0`,
      '--dial',
      `unix:${options.targetDial}`,
      ...security,
    ],
  });
  const [, address = ''] = await targetProxy.waitForOutput(/"listening":"(tcp:[^"]+)"/, READY_TIMEOUT_MS);
  const sourceProxy = await source.spawn({
    name: options.name,
    argv: [
      ...[program, '--listen', `unix:${options.sourceListen}`, '--dial', address, ...security],
      ...['--owner', `${QEMU_OWNER.uid}:${QEMU_OWNER.gid}`],
    ],
  });
  await sourceProxy.waitForOutput(/"listening"/, READY_TIMEOUT_MS);
  return {
    source: sourceProxy,
    target: targetProxy,
    stop: async () => {
      await sourceProxy.stop();
      await targetProxy.stop();
    },
  };
}

function migrationAddress(node: LabNode): string {
  if (node.place === 'nas') throw new RangeError('the NAS is not on the migration network');
  return MIGRATION_ADDRESS[node.place];
}

async function ensureCertificates(program: string, directory: string): Promise<string> {
  const present = await readdir(directory).catch(() => [] as string[]);
  if (!present.includes('node.key')) await runCommand([program, '--make-certs', directory]);
  return directory;
}
