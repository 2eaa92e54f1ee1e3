// A migration that does not converge in its time is cancelled and measured as that, so that a bench can record it and go on.

import { expect, it } from 'vitest';
import { measureMigration } from './measured-migration.ts';

const TOO_SHORT_MS = 1500;

it.each(['plain', 'nas'] as const)('%s: cancelled when its time is up, and said so', async (method) => {
  const measured = await measureMigration({
    ...{ method, profile: 'full', suite: 'trixie', channels: 8, index: 'sampled' },
    ...{ linkMbit: 50, nasMbit: 500, downtimeLimitMs: 300, timeoutMs: TOO_SHORT_MS },
  });
  expect(measured.converged).toBe(false);
  expect(measured.outcome.status).toBe('cancelled');
  expect(measured.outcome.wallMs).toBeGreaterThanOrEqual(TOO_SHORT_MS);
  expect(measured.linkBytes).toBeGreaterThan(0);
  expect(measured.bytesAfterStop).toBeNull();
  // Never true of what did not arrive.
  expect(measured.identicalStreams).toBeNull();
});
