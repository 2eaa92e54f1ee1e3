// One sidecar of a lab migration, as a process of its own on a node: user 107, no capabilities, driven by a configuration
// file (sidecar/standalone.ts). Its standard output says what it does; that is read here for progress and the result.

import { chown, readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { imageConfiguration } from '../../hack/ship/dockerfile.ts';
import type { SidecarSockets } from './migration-path.ts';
import { type LabNode, QEMU_OWNER } from './node.ts';
import type { NodeProcess } from './node-process.ts';

const PROGRAM = new URL('../../sidecar/standalone.ts', import.meta.url).pathname;

/** Node's options and the environment are those of the image. */
const image = imageConfiguration();

export interface SidecarOptions {
  readonly role: 'source' | 'target';
  readonly sockets: SidecarSockets;
  readonly migrationId: string;
  /** 64 hexadecimal digits. */
  readonly sessionKey: string;
  /** File of the volume on this node. */
  readonly volumePath: string;
  readonly downtimeLimitMs: number;
  readonly index: { readonly kind: 'full' | 'sampled' | 'load' | 'inherit' | 'none'; readonly file?: string };
  readonly pace?: boolean;
  readonly zstd?: boolean;
  readonly memoryLimitBytes?: number;
  /** Part of the process's name, unique in the node. Default: none. */
  readonly name?: string;
}

const Nas = z.object({
  bytesRead: z.number(),
  reads: z.number(),
  bytesPerSecond: z.number(),
  p99Micros: z.number(),
});

const State = z.looseObject({
  streamBytes: z.number(),
  linkBytes: z.number(),
  batches: z.number(),
  referencePages: z.number(),
  zeroPages: z.number().optional(),
  literalPages: z.number().optional(),
  declinedPages: z.number().optional(),
  resentPages: z.number().optional(),
  resentBatches: z.number().optional(),
  remainingBytes: z.number().optional(),
  phase: z.string().optional(),
  isPlainFaster: z.boolean().optional(),
  linkBytesPerSecond: z.number().optional(),
  nas: Nas,
  /** Of the target: what it read for the source's index to grow, and what of that no page came of. */
  growth: z.object({ bytesRead: z.number(), unusedBytes: z.number() }).optional(),
});
export type SidecarState = z.infer<typeof State>;

const IndexFacts = z.object({
  kind: z.enum(['sampled', 'full', 'inherited', 'none']),
  nasBytes: z.number(),
  seconds: z.number(),
  entries: z.number(),
  ageSeconds: z.number(),
});

const Result = State.extend({
  index: IndexFacts,
  uncachedReads: z.boolean(),
  cpuSeconds: z.number(),
  maxRssBytes: z.number(),
  error: z.string().nullable(),
});
export type SidecarResult = z.infer<typeof Result>;

const ReferencesOff = z.looseObject({ reason: z.string() });

export class SidecarProcess {
  readonly process: NodeProcess;
  readonly #name: string;

  private constructor(name: string, process: NodeProcess) {
    this.#name = name;
    this.process = process;
  }

  /** Starts it and waits until its index is made and it listens, at most `readyMs`. */
  static async start(node: LabNode, options: SidecarOptions, readyMs: number): Promise<SidecarProcess> {
    const name = ['sidecar', options.role, options.name].filter((part) => part !== undefined).join('-');
    const keyFile = node.file(`${name}.key`);
    await writeFile(keyFile, options.sessionKey, { mode: 0o400 });
    await chown(keyFile, QEMU_OWNER.uid, QEMU_OWNER.gid);
    const configFile = node.file(`${name}.json`);
    const config = {
      role: options.role,
      listen: options.sockets.listen,
      dial: options.sockets.dial,
      migrationId: options.migrationId,
      sessionKeyFile: keyFile,
      volumes: [{ name: 'root', path: options.volumePath }],
      downtimeLimitMs: options.downtimeLimitMs,
      index: options.index,
      pace: options.pace ?? true,
      zstd: options.zstd ?? true,
    };
    await writeFile(configFile, JSON.stringify(config));
    const process_ = await node.spawn({
      name,
      argv: [
        process.execPath,
        ...image.nodeOptions,
        ...(process.env['NASMIG_LAB_NODE_ARGUMENTS'] ?? '').split(' ').filter((word) => word !== ''),
        PROGRAM,
        configFile,
      ],
      user: QEMU_OWNER,
      env: image.env,
      ...(options.memoryLimitBytes === undefined ? {} : { memoryLimitBytes: options.memoryLimitBytes }),
    });
    await process_.waitForOutput(/^\{"event":"ready"/m, readyMs);
    return new SidecarProcess(name, process_);
  }

  /** The newest figures it told, or null before the first connection. */
  async state(): Promise<SidecarState | null> {
    const line = (await this.process.logTail())
      .split('\n')
      .filter((text) => text.startsWith('{"event":"progress"') && text.endsWith('}'))
      .at(-1);
    return line === undefined ? null : State.parse(JSON.parse(line));
  }

  /** Why it stopped sending references during the migration, or null: a NAS that did not answer in time, for one. */
  async referencesOff(): Promise<string | null> {
    const line = (await readFile(this.process.logPath, 'utf8'))
      .split('\n')
      .find((text) => text.endsWith('"msg":"references off"}'));
    return line === undefined ? null : ReferencesOff.parse(JSON.parse(line)).reason;
  }

  /** Its result, which it tells when the migration is over; it is told to end when it does not within `timeoutMs`. */
  async result(timeoutMs: number): Promise<SidecarResult> {
    if ((await this.process.endsWithin(timeoutMs)) === null) await this.process.stop();
    // The exit may be seen before the last write to the log.
    for (let i = 0; i < 20; i++) {
      const line = (await readFile(this.process.logPath, 'utf8'))
        .split('\n')
        .findLast((text) => text.startsWith('{"event":"result"'));
      if (line !== undefined) return Result.parse(JSON.parse(line));
      await sleep(50);
    }
    throw new Error(
      `${this.#name} told no result; end of ${this.process.logPath}:\n${await this.process.logTail()}`,
    );
  }
}
