// The disk volumes of this pod, as the injection mounted them read-only. Each may be missing, unreadable or on a NAS that
// does not answer: that is told to the operator and never fatal, and those are tried again from time to time.

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MAX_VOLUMES } from '../../control/limits.ts';
import type { SidecarVolume } from '../../control/messages.ts';
import { NasDeadlineError } from '../nas/nas-error.ts';
import { openVolume, type Volume } from '../nas/volume.ts';

const IMAGE_NAME = 'disk.img';

type Found = { readonly volume: Volume } | { readonly detail: string };

export class PodVolumes {
  readonly #directory: string;
  readonly #log: (line: string) => void;
  readonly #found = new Map<string, Found>();
  readonly #openVolume: typeof openVolume;
  /** Whose opening was given up and has not come back: one more would hold one more thread. */
  readonly #hanging = new Set<string>();
  #opening: Promise<boolean> | undefined;

  constructor(directory: string, log: (line: string) => void, open: typeof openVolume = openVolume) {
    this.#directory = directory;
    this.#log = log;
    this.#openVolume = open;
  }

  /** Those that can be read, in the order of their names: the volume numbers of index and readers. */
  get readable(): readonly Volume[] {
    return [...this.#found.values()].flatMap((found) => ('volume' in found ? [found.volume] : []));
  }

  /** All of them, as HELLO tells the operator. */
  describe(): SidecarVolume[] {
    return [...this.#found].map(([name, found]) =>
      'volume' in found
        ? {
            name,
            sizeBytes: found.volume.sizeBytes,
            readable: true,
            uncached: found.volume.uncached,
            detail: found.volume.uncachedReason,
          }
        : { name, sizeBytes: 0, readable: false, uncached: false, detail: found.detail },
    );
  }

  /** Opens those that are not open yet; bounded by openVolume's deadline. True when one more can be read. Never rejects. */
  open(): Promise<boolean> {
    this.#opening ??= this.#openMissing().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  async #openMissing(): Promise<boolean> {
    let names: string[];
    try {
      names = (await readdir(this.#directory)).sort().slice(0, MAX_VOLUMES);
    } catch (error) {
      this.#log(`no volumes: ${error instanceof Error ? error.message : String(error)}`);
      return false;
    }
    const opened = await Promise.all(names.map((name) => this.#openOne(name)));
    // One order for ever: by name, whatever opened first.
    const sorted = [...this.#found].sort(([a], [b]) => (a < b ? -1 : 1));
    this.#found.clear();
    for (const [name, found] of sorted) this.#found.set(name, found);
    return opened.includes(true);
  }

  async #openOne(name: string): Promise<boolean> {
    const before = this.#found.get(name);
    if ((before !== undefined && 'volume' in before) || this.#hanging.has(name)) return false;
    try {
      const path = join(this.#directory, name, IMAGE_NAME);
      const volume = await this.#openVolume({ name, path }, this.#log, {
        onLate: () => this.#hanging.delete(name),
      });
      this.#found.set(name, { volume });
      return true;
    } catch (error) {
      if (error instanceof NasDeadlineError) this.#hanging.add(name);
      const detail = error instanceof Error ? error.message : String(error);
      // A volume that stays away is said once.
      if (before === undefined || ('detail' in before && before.detail !== detail)) this.#log(detail);
      this.#found.set(name, { detail: detail.slice(0, 500) });
      return false;
    }
  }
}
