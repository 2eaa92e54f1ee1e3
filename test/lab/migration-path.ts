// The way of one migration's connections from QEMU to QEMU, built from its end to its beginning:
//
//   plain:     QEMU → recorder →            proxy ══► proxy →            recorder → QEMU
//   NAS-aware: QEMU → recorder → sidecar →  proxy ══► proxy → sidecar →  recorder → QEMU
//
// The path makes all of it but the QEMUs and the sidecars, and says which sockets those must use.

import { chown, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type MigrationProxies, startMigrationProxies } from './migration-proxy.ts';
import { type LabNode, QEMU_OWNER } from './node.ts';
import { Recorder, type RecorderReport } from './recorders.ts';

export interface MigrationPathOptions {
  /** Unique in the run; names a directory on both nodes. */
  name: string;
  /** Leave a gap on both nodes for a sidecar. */
  sidecars: boolean;
  /** Directory for the run's certificates; null: no TLS between the proxies. */
  certificates: string | null;
}

/** A sidecar listens on one socket and dials another, in both roles. It may create its own `listen`. */
export interface SidecarSockets {
  listen: string;
  dial: string;
}

export class MigrationPath {
  /** The source QEMU migrates to this socket: `unix:<it>`. */
  readonly sourceSocket: string;
  /** The target QEMU listens here: `-incoming unix:<it>`. */
  readonly targetSocket: string;
  /** Where the sidecars belong; null on a plain path. The target's must listen before the first connection. */
  readonly sidecars: { source: SidecarSockets; target: SidecarSockets } | null;
  readonly recorders: { source: Recorder; target: Recorder };
  readonly proxies: MigrationProxies;

  private constructor(parts: Omit<MigrationPath, 'finish'>) {
    this.sourceSocket = parts.sourceSocket;
    this.targetSocket = parts.targetSocket;
    this.sidecars = parts.sidecars;
    this.recorders = parts.recorders;
    this.proxies = parts.proxies;
  }

  static async open(source: LabNode, target: LabNode, options: MigrationPathOptions): Promise<MigrationPath> {
    const at = async (node: LabNode) => {
      const directory = node.file(options.name);
      await mkdir(directory, { recursive: true });
      // QEMU and the sidecar, both 107, make sockets here.
      await chown(directory, QEMU_OWNER.uid, QEMU_OWNER.gid);
      return (name: string) => join(directory, name);
    };
    const sourceFile = await at(source);
    const targetFile = await at(target);
    const targetSocket = targetFile('qemu.sock');
    const targetRecorder = await Recorder.start(target, {
      name: `${options.name}-recorder`,
      listen: targetFile('recorder.sock'),
      dial: targetSocket,
      reportPath: targetFile('recorder.json'),
    });
    const proxies = await startMigrationProxies(source, target, {
      name: `${options.name}-proxy`,
      sourceListen: sourceFile('proxy.sock'),
      targetDial: options.sidecars ? targetFile('sidecar.sock') : targetFile('recorder.sock'),
      certificates: options.certificates,
    });
    const sourceSocket = sourceFile('recorder.sock');
    const sourceRecorder = await Recorder.start(source, {
      name: `${options.name}-recorder`,
      listen: sourceSocket,
      dial: options.sidecars ? sourceFile('sidecar.sock') : sourceFile('proxy.sock'),
      reportPath: sourceFile('recorder.json'),
    });
    return new MigrationPath({
      sourceSocket,
      targetSocket,
      sidecars: options.sidecars
        ? {
            source: { listen: sourceFile('sidecar.sock'), dial: sourceFile('proxy.sock') },
            target: { listen: targetFile('sidecar.sock'), dial: targetFile('recorder.sock') },
          }
        : null,
      recorders: { source: sourceRecorder, target: targetRecorder },
      proxies,
    });
  }

  /** Ends recorders and proxies, whatever they are doing, and returns what the recorders saw. */
  async finish(): Promise<{ source: RecorderReport; target: RecorderReport }> {
    const [source, target] = await Promise.all([
      this.recorders.source.finish(),
      this.recorders.target.finish(),
    ]);
    await this.proxies.stop();
    return { source, target };
  }
}
