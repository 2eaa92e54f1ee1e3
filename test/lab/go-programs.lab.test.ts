// The unit tests of the lab's Go programs, which have no suite of their own.

import { join } from 'node:path';
import { expect, it } from 'vitest';
import { findGo } from './go-programs.ts';
import { runCommand } from './run-command.ts';

/** The first run compiles the standard library. */
const TIMEOUT_MS = 5 * 60_000;

it(
  'the Go programs pass their own tests',
  async () => {
    const output = await runCommand([await findGo(), 'test', './...'], {
      cwd: join(import.meta.dirname, 'go'),
      env: { ...process.env, CGO_ENABLED: '0', GOTOOLCHAIN: 'local', GOFLAGS: '-mod=mod' },
      timeoutMs: TIMEOUT_MS,
    });
    for (const program of ['recorder', 'guest-init', 'nfs-write-counter'])
      expect(output).toMatch(new RegExp(`^ok\\s+\\S+/cmd/${program}\\b`, 'm'));
  },
  TIMEOUT_MS,
);
