// A guest of the lab's cluster, heard by its beacons whichever pod it is in.

import type { GuestCommand } from '../lab/guest-beacon.ts';
import type { GuestObserver } from '../lab/guest-observer.ts';
import type { Guest, GuestCheck } from './driver.ts';

const LIFE_TIMEOUT_MS = 30_000;

export class LabGuest implements Guest {
  readonly observer: GuestObserver;

  constructor(observer: GuestObserver) {
    this.observer = observer;
  }

  mark(): void {
    this.observer.mark();
  }

  get longestGapMs(): number | undefined {
    return this.observer.report().longestGap?.gapMs;
  }

  async command(command: GuestCommand): Promise<void> {
    await this.observer.command(command);
  }

  async check(): Promise<GuestCheck> {
    await this.waitForLife();
    await this.observer.command({ kind: 'verifyAll' });
    const { selfCheck, failure, repeatedCounters } = this.observer.report();
    return { selfCheck, failure, repeatedCounters };
  }

  async waitForLife(): Promise<void> {
    await this.observer.waitForNext(LIFE_TIMEOUT_MS);
  }

  async close(): Promise<void> {
    await this.observer.close();
  }
}
