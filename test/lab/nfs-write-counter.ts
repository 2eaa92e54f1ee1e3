// How much file data a node has written to the NAS: told by a Go program of its own in the node's network namespace
// (go/cmd/nfs-write-counter), which reads the NFS calls that leave through the storage interface. The interface's byte counter
// cannot tell: every read, too, sends calls and acknowledgements.

import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { buildGoProgram } from './go-programs.ts';
import type { LabNode } from './node.ts';
import type { NodeProcess } from './node-process.ts';

const READY_TIMEOUT_MS = 10_000;
const REPORT_TIMEOUT_MS = 5_000;

const Report = z.object({
  writtenMs: z.number(),
  writeCalls: z.number().int(),
  writeBytes: z.number().int(),
  calls: z.number().int(),
  error: z.string(),
});

/** The counter lost track of what the node writes. */
export class NfsWritesUnknownError extends Error {
  readonly code = 'NASMIG_LAB_NFS_WRITES_UNKNOWN';
  constructor(place: string, reason: string) {
    super(
      `what node ${place} writes to the NAS could not be counted: ${reason}; measure again on a quieter machine`,
    );
    this.name = 'NfsWritesUnknownError';
  }
}

export class NfsWriteCounter {
  readonly #node: LabNode;
  readonly #process: NodeProcess;
  readonly #reportPath: string;

  private constructor(node: LabNode, process: NodeProcess, reportPath: string) {
    this.#node = node;
    this.#process = process;
    this.#reportPath = reportPath;
  }

  /** Resolves when it counts. Must be there before the node's first mount. */
  static async start(node: LabNode): Promise<NfsWriteCounter> {
    const reportPath = node.file('nfs-writes.json');
    const process = await node.spawn({
      name: 'nfs-write-counter',
      argv: [await buildGoProgram('nfs-write-counter'), '--report', reportPath],
    });
    await process.waitForOutput(/"counting"/, READY_TIMEOUT_MS);
    return new NfsWriteCounter(node, process, reportPath);
  }

  /** Bytes of file data in the WRITE calls since the start. Throws NfsWritesUnknownError. */
  async bytes(): Promise<number> {
    const askedMs = Date.now();
    this.#process.signal('SIGUSR1');
    let report: z.infer<typeof Report> | undefined;
    await this.#process.waitUntil('a report', REPORT_TIMEOUT_MS, async () => {
      report = Report.parse(JSON.parse(await readFile(this.#reportPath, 'utf8')));
      return report.writtenMs >= askedMs;
    });
    if (report === undefined) throw new Error('unreachable: waitUntil returned without a report');
    if (report.error !== '') throw new NfsWritesUnknownError(this.#node.place, report.error);
    return report.writeBytes;
  }
}
