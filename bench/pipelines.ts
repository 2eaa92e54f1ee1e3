// Source and target pipeline, each in one process and one thread, against a plain Node relay of the same bytes in the same run:
// node bench/pipelines.ts [RUNS]. Rates are stream bytes by core-second of the process under test, since QEMU's ends and the peer
// share the machine; the wall clock's rate stands beside them. The NAS is memory here. Each goes over a recorded guest's main channel
// and over a generated one's 8 channels; what is asked of the source is judged by the recorded one. Writes build/pipelines.json.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { z } from 'zod';
import { imageConfiguration } from '../hack/ship/dockerfile.ts';
import { floorLines, pipelineFloors } from './pipeline-floors.ts';
import { ensureRecordedFiles } from './recorded-guest.ts';

const runs = Number(process.argv[2] ?? '3');
if (!Number.isInteger(runs) || runs < 1 || runs > 20)
  throw new Error('usage: node bench/pipelines.ts [RUNS, 1 to 20]');

const PROGRAM = new URL('./pipeline-process.ts', import.meta.url).pathname;
const READY_MS = 120_000;
const RUN_MS = 120_000;

/** Every process, the relay too, has the options that the sidecar is shipped with. */
const image = imageConfiguration();

const Done = z.looseObject({
  event: z.literal('done'),
  seconds: z.number().optional(),
  cpuSeconds: z.number().optional(),
  streamBytes: z.number().optional(),
  referencePages: z.number().optional(),
  literalPages: z.number().optional(),
  linkBytes: z.number().optional(),
  failure: z.string().optional(),
});

class Part {
  readonly #child: ChildProcess;
  readonly #events = new Map<string, { promise: Promise<unknown>; resolve: (value: unknown) => void }>();

  constructor(role: string, directory: string, zstd: string, files: readonly string[]) {
    this.#child = spawn(process.execPath, [...image.nodeOptions, PROGRAM, role, directory, zstd, ...files], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, ...image.env },
    });
    for (const event of ['ready', 'done']) this.#events.set(event, Promise.withResolvers<unknown>());
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      const message = JSON.parse(line) as { event: string };
      this.#events.get(message.event)?.resolve(message);
    });
    // A part that ends early must not hang the benchmark.
    this.#child.on('exit', (code) => {
      for (const { resolve } of this.#events.values()) resolve({ event: `${role} ended with ${code}` });
    });
  }

  start(): void {
    this.#child.stdin?.write('go\n');
  }

  async wait(event: 'ready' | 'done', limitMs: number): Promise<unknown> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise((_resolve, reject) => {
      timer = setTimeout(
        () => reject(new Error(`a part of the pipeline was not ${event} in ${limitMs} ms`)),
        limitMs,
      );
    });
    try {
      return await Promise.race([this.#events.get(event)?.promise, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  stop(): void {
    if (this.#child.exitCode === null) this.#child.kill('SIGKILL');
  }
}

interface Measured {
  readonly gbPerCoreSecond: number;
  readonly gbPerSecond: number;
  readonly linkShare: number | undefined;
  readonly referenceShare: number | undefined;
}

/** Runs a stream through the parts; the first one is under test, the last one is QEMU at the source. */
async function measure(roles: readonly string[], zstd: string, files: readonly string[]): Promise<Measured> {
  const directory = mkdtempSync(join(tmpdir(), 'nasmig-pipelines-'));
  const parts = roles.map((role) => new Part(role, directory, zstd, files));
  try {
    await Promise.all(parts.map((part) => part.wait('ready', READY_MS)));
    const writer = parts.at(-1) as Part;
    writer.start();
    const { streamBytes } = Done.parse(await writer.wait('done', RUN_MS));
    const tested = Done.parse(await (parts[0] as Part).wait('done', RUN_MS));
    if (tested.failure !== undefined || streamBytes === undefined)
      throw new Error(`${roles[0]} failed: ${tested.failure}`);
    const { referencePages, literalPages, linkBytes } = tested;
    return {
      gbPerCoreSecond: streamBytes / (tested.cpuSeconds ?? 0) / 1e9,
      gbPerSecond: streamBytes / (tested.seconds ?? 0) / 1e9,
      linkShare: linkBytes === undefined ? undefined : linkBytes / streamBytes,
      referenceShare:
        referencePages === undefined || literalPages === undefined
          ? undefined
          : referencePages / (referencePages + literalPages),
    };
  } finally {
    for (const part of parts) part.stop();
    rmSync(directory, { recursive: true, force: true });
  }
}

const RELAY = 'plain Node relay';
const CASES: readonly { name: string; roles: readonly string[]; zstd: string }[] = [
  { name: RELAY, roles: ['relay', 'read', 'write-to-relay'], zstd: 'no-zstd' },
  {
    name: 'source, zstd',
    roles: ['source-to-acknowledger', 'acknowledge', 'write-to-source'],
    zstd: 'zstd',
  },
  {
    name: 'source, no zstd',
    roles: ['source-to-acknowledger', 'acknowledge', 'write-to-source'],
    zstd: 'no-zstd',
  },
  {
    name: 'target',
    roles: ['target', 'read', 'source-to-target', 'write-to-source'],
    zstd: 'zstd',
  },
];

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] as number;
}

const recorded = await ensureRecordedFiles();
/** What of a guest the parts are told. */
const GUESTS: readonly { guest: string; files: readonly string[] }[] = [
  { guest: 'recorded', files: [recorded.statePath, recorded.diskPath] },
  { guest: 'generated', files: [] },
];
const PLANNED = GUESTS.flatMap(({ guest, files }) => CASES.map((one) => ({ ...one, guest, files })));

const results = PLANNED.map((): Measured[] => []);
for (let run = 0; run < runs; run++) {
  for (const [i, { guest, name, roles, zstd, files }] of PLANNED.entries()) {
    results[i]?.push(await measure(roles, zstd, files));
    process.stderr.write(`run ${run + 1} of ${runs}: ${guest}, ${name}\n`);
  }
}
const medians = PLANNED.map(({ guest, name }, i) => {
  const measured = results[i] as Measured[];
  return {
    guest,
    name,
    runs,
    gbPerCoreSecond: median(measured.map((one) => one.gbPerCoreSecond)),
    gbPerSecond: median(measured.map((one) => one.gbPerSecond)),
    referenceShare: measured[0]?.referenceShare,
    linkShare: measured[0]?.linkShare,
  };
});
const records = medians.map((record) => {
  const relay = medians.find(({ guest, name }) => guest === record.guest && name === RELAY);
  return { ...record, ofRelay: record.gbPerCoreSecond / (relay?.gbPerCoreSecond ?? 0) };
});
for (const record of records) {
  const share =
    record.referenceShare === undefined ? '' : `, ${(100 * record.referenceShare).toFixed(0)} % references`;
  console.log(
    `${record.guest.padEnd(10)} ${record.name.padEnd(18)} ${record.gbPerCoreSecond.toFixed(2).padStart(6)} GB a core-second, ${record.ofRelay.toFixed(2)} of the relay, ${record.gbPerSecond.toFixed(2)} GB/s by the clock${share}`,
  );
}
const floors = pipelineFloors(records);
for (const line of floorLines(floors)) console.log(line);
mkdirSync('build', { recursive: true });
writeFileSync('build/pipelines.json', `${JSON.stringify({ records, floors }, null, 2)}\n`);
