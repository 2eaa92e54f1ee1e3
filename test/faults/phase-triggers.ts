// Waits for the moment at which a fault is to hit, from what can be seen: QEMU's own account through its monitor, the
// coordinator's view, the gate on the return path. Nothing is guessed by the clock.

import { setTimeout as sleep } from 'node:timers/promises';
import type { QmpClient } from '../lab/qmp.ts';
import type { PlannedFault } from './fault-plan.ts';
import type { Monitor } from './outside-observer.ts';
import type { ShutGate } from './shut-gate.ts';

const LOOK_MS = 4;
/** QEMU's first pass sends what is easy first: below this share nothing of weight has passed. */
const LEAST_SHARE = 0.3;
const MOST_SHARE = 0.9;

/** The migration ended, or went past the phase, before the fault could hit. */
export class PhaseMissedError extends Error {
  readonly code = 'NASMIG_LAB_PHASE_MISSED';
  constructor(phase: string, seen: string) {
    super(`phase ${phase} was not met: ${seen}; the run says nothing and is to be repeated`);
    this.name = 'PhaseMissedError';
  }
}

interface MigrateInfo {
  readonly status?: string;
  readonly ram?: { readonly total: number; readonly remaining: number; readonly 'dirty-sync-count': number };
}

export interface Awaited {
  /** What was seen, in words, for the record. */
  readonly seen: string;
}

export interface PhaseSigns {
  readonly planned: PlannedFault;
  /** The source QEMU's. */
  readonly monitor: Monitor;
  /** For `end`. */
  readonly gate: ShutGate | undefined;
  /** Both sides have told the coordinator ARMED. */
  readonly bothArmed: () => boolean;
  /** For `arming` in its later half: resolves when the source holds QEMU's first connection, and GO is kept back. */
  readonly holding: Promise<void> | undefined;
  /** Resolves when the migration has ended by itself. */
  readonly over: Promise<unknown>;
}

/** Resolves in the planned phase. Throws {@link PhaseMissedError}. */
export async function reachPhase(signs: PhaseSigns, timeoutMs: number): Promise<Awaited> {
  const { planned } = signs;
  const stop = new AbortController();
  const missed = signs.over.then(() => {
    throw new PhaseMissedError(planned.phase, 'the migration ended before');
  });
  const late = sleep(timeoutMs, undefined, { signal: stop.signal }).then(() => {
    throw new PhaseMissedError(planned.phase, `not within ${timeoutMs} ms`);
  });
  late.catch(() => undefined);
  try {
    return await Promise.race([waitIn(signs, stop.signal), missed, late]);
  } finally {
    stop.abort();
  }
}

function waitIn(signs: PhaseSigns, signal: AbortSignal): Promise<Awaited> {
  switch (signs.planned.phase) {
    case 'arming':
      if (signs.holding !== undefined) {
        return signs.holding.then(() => ({ seen: "the source holds QEMU's first connection, no GO" }));
      }
      return poll(signal, () =>
        Promise.resolve(signs.bothArmed() ? 'both sides armed, QEMU has not connected' : undefined),
      );
    case 'bulk': {
      const share = LEAST_SHARE + (MOST_SHARE - LEAST_SHARE) * signs.planned.position;
      return poll(signal, async () => {
        const { status, ram } = await query(signs.monitor);
        if (ram === undefined || status !== 'active') return undefined;
        if (ram['dirty-sync-count'] > 1) {
          throw new PhaseMissedError('bulk', `pass ${ram['dirty-sync-count']} already`);
        }
        const passed = ram.total === 0 ? 0 : 1 - ram.remaining / ram.total;
        return passed >= share ? `pass 1, ${(passed * 100).toFixed(0)} % passed` : undefined;
      });
    }
    case 'decision':
      return poll(signal, async () => {
        const { status, ram } = await query(signs.monitor);
        if (ram === undefined) return undefined;
        if (status !== 'active' && ram['dirty-sync-count'] > 1) {
          throw new PhaseMissedError('decision', `status ${status}`);
        }
        return ram['dirty-sync-count'] > 1 ? `pass ${ram['dirty-sync-count']}` : undefined;
      });
    case 'stopped':
      return stopped(signs.monitor);
    case 'end': {
      if (signs.gate === undefined) throw new Error('phase end needs a gate');
      return signs.gate.shutHeld.then(() => ({
        seen: 'the destination has said SHUT, the source has not heard it',
      }));
    }
  }
}

async function stopped(monitor: Monitor): Promise<Awaited> {
  const client = monitor.client;
  if (client === undefined) throw new PhaseMissedError('stopped', 'no monitor of the source QEMU');
  const event = await client.waitForEvent(({ name }) => name === 'STOP', 60_000, client.events.length);
  return { seen: `STOP at ${Math.round(event.timestampMs)}` };
}

async function query(monitor: Monitor): Promise<MigrateInfo> {
  const client: QmpClient | undefined = monitor.client;
  if (client === undefined) return {};
  return client.execute<MigrateInfo>('query-migrate').catch(() => ({}));
}

async function poll(signal: AbortSignal, look: () => Promise<string | undefined>): Promise<Awaited> {
  for (;;) {
    const seen = await look();
    if (seen !== undefined) return { seen };
    if (signal.aborted) throw new PhaseMissedError('any', 'no longer awaited');
    await sleep(LOOK_MS);
  }
}
