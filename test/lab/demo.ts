// `make demo-lab`: live-migrates a running VM twice, plainly and NAS-aware, between two nodes of the lab, and prints the two
// side by side. Writes build/demo.json.

import { z } from 'zod';
import { DEMO_FILE, recordDemo } from './demo-file.ts';
import { DemoOptions, describeDemo, PROFILE_NAMES, readDemoOptions } from './demo-options.ts';
import { demoRecord, demoTable, type KnownOfDemo, mebibytes, plainFigures, seconds } from './demo-report.ts';
import { GUEST_PROFILES } from './guest-profiles.ts';
import { LiveLine } from './live-line.ts';
import {
  type Measurement,
  type Method,
  measureMigration,
  type Progress,
  type Scenario,
} from './measured-migration.ts';

const Options = DemoOptions.extend({ index: z.enum(['full', 'sampled']).default('sampled') });

const USAGE = `usage: make demo-lab [GUEST=${PROFILE_NAMES.join('|')}] [LINK=Mbit/s] [NAS=Mbit/s] [CHANNELS=n]
       [QEMU=bookworm|trixie|sid] [INDEX=sampled|full]  (0 Mbit/s: unlimited; 0 or 1 channels: pages on QEMU's main channel)`;

/** Without convergence after this long a migration is cancelled and the demo fails. */
const TIMEOUT_MS = 180_000;

const say = (message: string): void => console.log(`  ${message}`);

function progressLine(method: Method, { elapsedMs, ram, source, target }: Progress): string {
  const parts = [`${method === 'nas' ? 'NAS-aware' : 'plain'} ${seconds(elapsedMs)}`];
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

async function run(
  scenario: Scenario,
  logs: string | undefined,
  learn: (known: KnownOfDemo) => void,
): Promise<Measurement> {
  console.log(`\n${scenario.method === 'nas' ? 'NAS-aware' : 'Plain'} migration`);
  const line = new LiveLine();
  const keepLogsIn = logs === undefined ? undefined : `${logs}/${scenario.method}`;
  const show = (progress: Progress): void =>
    line.show(progress.elapsedMs, progressLine(scenario.method, progress));
  const measured = await measureMigration(scenario, say, show, keepLogsIn).finally(() => line.end());
  const { outcome } = measured;
  say(`${outcome.status} after ${seconds(outcome.wallMs)}, guest self-check ${measured.guestSelfCheck}`);
  learn({ qemu: measured.qemuVersion, guestSelfCheck: measured.guestSelfCheck });
  if (!measured.converged)
    throw new Error(
      `the ${scenario.method} migration ${outcome.status}: ${outcome.error ?? 'no reason given'}`,
    );
  return measured;
}

const options = readDemoOptions(Options, USAGE);
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
const { memoryMiB } = GUEST_PROFILES[options.guest];
console.log(describeDemo(options));
try {
  const differences: string[] = [];
  const record = await recordDemo(options, async (learn) => {
    const plain = await run({ ...scenario, method: 'plain' }, options.logs, learn);
    learn({ plain: plainFigures(plain) });
    const nas = await run({ ...scenario, method: 'nas' }, options.logs, learn);
    differences.push(...plain.differences, ...nas.differences);
    return demoRecord(plain, nas, memoryMiB);
  });
  console.log(`\n${demoTable(record)}\n`);
  console.log(
    `streams identical: ${record.identicalStreams}, guest self-check: ${record.guestSelfCheck}; written to ${DEMO_FILE}`,
  );
  for (const difference of differences) console.error(`  ${difference}`);
  if (record.identicalStreams !== true || record.guestSelfCheck !== 'ok') process.exitCode = 1;
} catch (error) {
  console.error(`demo: ${(error as Error).message}`);
  process.exitCode = 1;
}
