// Pages of 2 MiB that the machine keeps for guests: reserved for a run, and given back with it, also when its process is ended.

import { readFileSync, writeFileSync } from 'node:fs';

const RESERVED = '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages';
/** Moves memory that is in use together, so that what is free is in larger pieces. */
const COMPACT = '/proc/sys/vm/compact_memory';
const MAX_TRIES = 5;

/** The kernel has no such pages, or no room for them. */
export class HugePagesError extends Error {
  readonly code = 'NASMIG_LAB_HUGE_PAGES';
  constructor(wanted: number, got: string) {
    super(
      `${wanted} pages of 2 MiB were asked for in ${RESERVED}, which has ${got}: the kernel lacks them, or memory is in pieces`,
    );
    this.name = 'HugePagesError';
  }
}

/** Reserves `mib` beyond what is reserved already. Returns what gives them back. Throws {@link HugePagesError}. */
export function reserveHugePages(mib: number): () => void {
  const pages = Math.ceil(mib / 2);
  const before = readReserved(pages);
  const giveBack = (): void => {
    process.off('exit', giveBack);
    writeFileSync(RESERVED, String(before));
  };
  process.on('exit', giveBack);
  let reserved = before;
  for (let tries = 0; tries < MAX_TRIES && reserved < before + pages; tries++) {
    if (tries > 0) writeFileSync(COMPACT, '1');
    writeFileSync(RESERVED, String(before + pages));
    reserved = readReserved(pages);
  }
  if (reserved < before + pages) {
    giveBack();
    throw new HugePagesError(pages, String(reserved));
  }
  return giveBack;
}

function readReserved(wanted: number): number {
  try {
    return Number(readFileSync(RESERVED, 'utf8'));
  } catch (error) {
    throw new HugePagesError(wanted, error instanceof Error ? error.message : String(error));
  }
}
