// `make demo`: live-migrates a running VM twice, plainly and NAS-aware, between two nodes of the lab, and prints the two
// side by side. Writes build/demo.json.

import { mkdirSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { demoRecord, demoTable, mebibytes, seconds } from './demo-report.ts';
import { GUEST_PROFILES, type GuestProfileName } from './guest-profiles.ts';
import {
  type Measurement,
  type Method,
  measureMigration,
  type Progress,
  type Scenario,
} from './measured-migration.ts';

const PROFILE_NAMES = Object.keys(GUEST_PROFILES) as [GuestProfileName, ...GuestProfileName[]];

const Options = z.object({
  guest: z.enum(PROFILE_NAMES).default('warm'),
  link: z.coerce.number().int().min(0).max(100_000).default(200),
  nas: z.coerce.number().int().min(0).max(100_000).default(2000),
  channels: z.coerce.number().int().min(0).max(64).default(8),
  qemu: z.enum(['bookworm', 'trixie', 'sid']).default('trixie'),
  index: z.enum(['full', 'sampled']).default('sampled'),
  downtime: z.coerce.number().int().min(1).max(2_000_000).default(300),
  logs: z.string().optional(),
});

const USAGE = `usage: make demo [GUEST=${PROFILE_NAMES.join('|')}] [LINK=Mbit/s] [NAS=Mbit/s] [CHANNELS=n] [QEMU=bookworm|trixie|sid]
       (0 Mbit/s: unlimited; 0 or 1 channels: pages on QEMU's main channel)`;

/** Without convergence after this long a migration is cancelled and the demo fails. */
const TIMEOUT_MS = 180_000;

function readOptions(): z.infer<typeof Options> {
  const string = { type: 'string' } as const;
  const options = { guest: string, link: string, nas: string, channels: string, qemu: string, index: string };
  try {
    const { values } = parseArgs({ options: { ...options, downtime: string, logs: string } });
    return Options.parse(values);
  } catch (error) {
    console.error(error instanceof z.ZodError ? z.prettifyError(error) : (error as Error).message);
    console.error(USAGE);
    process.exit(2);
  }
}

const say = (message: string): void => console.log(`  ${message}`);

/** One line that is rewritten on a terminal, and a plain line every few seconds in a log. */
class ProgressLine {
  readonly #method: Method;
  #lastPlainMs = 0;

  constructor(method: Method) {
    this.#method = method;
  }

  show(progress: Progress): void {
    const line = this.#line(progress);
    if (process.stdout.isTTY) process.stdout.write(`\r\x1b[2K  ${line}`);
    else if (progress.elapsedMs - this.#lastPlainMs > 5000) {
      this.#lastPlainMs = progress.elapsedMs;
      say(line);
    }
  }

  end(): void {
    if (process.stdout.isTTY) process.stdout.write('\r\x1b[2K');
  }

  #line({ elapsedMs, ram, source, target }: Progress): string {
    const parts = [`${this.#method === 'nas' ? 'NAS-aware' : 'plain'} ${seconds(elapsedMs)}`];
    if (ram !== null && ram.totalBytes > 0) {
      const { remainingBytes, totalBytes } = ram;
      parts.push(`${(100 - (100 * remainingBytes) / totalBytes).toFixed(0)} % of ${mebibytes(totalBytes)}`);
      const done = totalBytes - remainingBytes;
      if (done > 0) parts.push(`about ${seconds((elapsedMs * remainingBytes) / done)} left`);
    }
    if (source !== null) {
      parts.push(
        `pages: ${source.referencePages} from the NAS, ${source.literalPages ?? 0} literal, ${source.zeroPages ?? 0} zero`,
      );
      parts.push(`link ${mebibytes(source.linkBytesPerSecond ?? 0)}/s`);
    }
    if (target !== null) parts.push(`NAS ${mebibytes(target.nas.bytesPerSecond)}/s`);
    return parts.join(', ');
  }
}

async function run(scenario: Scenario, logs: string | undefined): Promise<Measurement> {
  console.log(`\n${scenario.method === 'nas' ? 'NAS-aware' : 'Plain'} migration`);
  const line = new ProgressLine(scenario.method);
  const keepLogsIn = logs === undefined ? undefined : `${logs}/${scenario.method}`;
  const measured = await measureMigration(scenario, say, (progress) => line.show(progress), keepLogsIn);
  line.end();
  const { outcome } = measured;
  say(`${outcome.status} after ${seconds(outcome.wallMs)}, guest self-check ${measured.guestSelfCheck}`);
  if (!measured.converged)
    throw new Error(
      `the ${scenario.method} migration ${outcome.status}: ${outcome.error ?? 'no reason given'}`,
    );
  return measured;
}

const options = readOptions();
const scenario: Omit<Scenario, 'method'> = {
  profile: options.guest,
  suite: options.qemu,
  channels: options.channels,
  linkMbit: options.link,
  nasMbit: options.nas,
  downtimeLimitMs: options.downtime,
  timeoutMs: TIMEOUT_MS,
  index: options.index,
};
const rate = (mbit: number): string => (mbit === 0 ? 'unlimited' : `${mbit} Mbit/s`);
const { memoryMiB } = GUEST_PROFILES[options.guest];
console.log(
  `Guest "${options.guest}" with ${memoryMiB} MiB, ${options.channels} multifd channels, ` +
    `migration network ${rate(options.link)}, storage network ${rate(options.nas)}`,
);
try {
  const plain = await run({ ...scenario, method: 'plain' }, options.logs);
  const nas = await run({ ...scenario, method: 'nas' }, options.logs);
  const record = demoRecord(plain, nas, memoryMiB);
  mkdirSync('build', { recursive: true });
  writeFileSync('build/demo.json', `${JSON.stringify(record, null, 2)}\n`);
  console.log(`\n${demoTable(record)}\n`);
  console.log(
    `streams identical: ${record.identicalStreams}, guest self-check: ${record.guestSelfCheck}; written to build/demo.json`,
  );
  for (const difference of [...plain.differences, ...nas.differences]) console.error(`  ${difference}`);
  if (record.identicalStreams !== true || record.guestSelfCheck !== 'ok') process.exitCode = 1;
} catch (error) {
  console.error(`demo: ${(error as Error).message}`);
  process.exitCode = 1;
}
