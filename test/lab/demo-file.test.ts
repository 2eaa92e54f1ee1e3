import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { recordDemo } from './demo-file.ts';
import type { DemoRecord } from './demo-report.ts';

const OPTIONS = { guest: 'full', channels: 8, link: 200, nas: 2000 } as const;

let directory: string;
let path: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nasmig-demo-'));
  path = join(directory, 'build', 'demo.json');
});
afterEach(() => rmSync(directory, { recursive: true }));

const written = (): unknown => JSON.parse(readFileSync(path, 'utf8'));

/** A demo before this one. */
async function recordEarlier(): Promise<void> {
  await recordDemo(OPTIONS, async () => ({ identicalStreams: true }) as DemoRecord, path);
  expect(written()).toEqual({ identicalStreams: true });
}

describe('recordDemo', () => {
  it('writes that nothing was compared when a migration failed, with the reason and what is known', async () => {
    await recordEarlier();
    const plain = { linkBytes: 1e9, totalMs: 40_000, downtimeMs: 300, guestGapMs: 320 };
    const demo = recordDemo(
      OPTIONS,
      async (learn) => {
        learn({ qemu: '10.0.1', plain });
        learn({ guestSelfCheck: 'failed' });
        throw new Error('the nas migration cancelled: not converged');
      },
      path,
    );
    await expect(demo).rejects.toThrow('the nas migration cancelled: not converged');
    expect(written()).toEqual({
      guest: { profile: 'full', memoryMiB: 600 },
      ...{ channels: 8, linkMbit: 200, nasMbit: 2000, qemu: '10.0.1', plain, guestSelfCheck: 'failed' },
      identicalStreams: null,
      failure: 'the nas migration cancelled: not converged',
    });
  });

  it('has removed the record of an earlier demo before the first migration', async () => {
    await recordEarlier();
    let wasThere: boolean | undefined;
    const demo = recordDemo(
      OPTIONS,
      async () => {
        wasThere = existsSync(path);
        throw new Error('no node could be started');
      },
      path,
    );
    await expect(demo).rejects.toThrow('no node could be started');
    expect(wasThere).toBe(false);
    expect(written()).toMatchObject({ identicalStreams: null, failure: 'no node could be started' });
  });
});
