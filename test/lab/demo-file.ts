// build/demo.json: what both demos leave behind, also when they fail. A record of an earlier demo never stands for this one.

import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { DemoOptions } from './demo-options.ts';
import { type DemoRecord, failedDemoRecord, type KnownOfDemo } from './demo-report.ts';

export const DEMO_FILE = 'build/demo.json';

/**
 * Runs a demo and writes the record that it returns. When it throws, the record has what the demo called `learn` with until then,
 * why it failed, and `identicalStreams: null`; then the error goes on.
 */
export async function recordDemo<Record extends DemoRecord>(
  options: Pick<DemoOptions, 'guest' | 'channels' | 'link' | 'nas'>,
  demo: (learn: (known: KnownOfDemo) => void) => Promise<Record>,
  path: string = DEMO_FILE,
): Promise<Record> {
  mkdirSync(dirname(path), { recursive: true });
  rmSync(path, { force: true });
  const write = (record: object): void => writeFileSync(path, `${JSON.stringify(record, null, 2)}\n`);
  let known: KnownOfDemo = {};
  try {
    const record = await demo((more) => {
      known = { ...known, ...more };
    });
    write(record);
    return record;
  } catch (error) {
    write(failedDemoRecord(options, known, (error as Error).message));
    throw error;
  }
}
