// libvirt's account of a migration, out of what `virsh domjobinfo --completed` prints. Pure.

export interface JobInfo {
  /** `Completed`, `Failed`, `None`, ... */
  readonly type: string;
  readonly elapsedMs: number | undefined;
  /** Measured by libvirt from the VM's stop to its going on. */
  readonly downtimeMs: number | undefined;
  /** What QEMU believes to have sent of memory; a relay in between does not change it. */
  readonly memoryProcessedBytes: number | undefined;
  readonly memoryTotalBytes: number | undefined;
  /** Times that QEMU went through the dirty pages. */
  readonly iterations: number | undefined;
}

const UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  TiB: 1024 ** 4,
};

/** undefined when the text tells of no job. Sizes are as exact as virsh prints them: three decimals. */
export function parseJobInfo(text: string): JobInfo | undefined {
  const values = new Map<string, string>();
  for (const line of text.split('\n')) {
    const colon = line.indexOf(':');
    if (colon > 0) values.set(line.slice(0, colon).trim(), line.slice(colon + 1).trim());
  }
  const type = values.get('Job type');
  if (type === undefined || type === 'None') return undefined;
  return {
    type,
    elapsedMs: milliseconds(values.get('Time elapsed')),
    downtimeMs: milliseconds(values.get('Total downtime')),
    memoryProcessedBytes: bytes(values.get('Memory processed')),
    memoryTotalBytes: bytes(values.get('Memory total')),
    iterations: count(values.get('Iteration')),
  };
}

function milliseconds(value: string | undefined): number | undefined {
  const match = /^(\d+)\s+ms$/.exec(value ?? '');
  return match === null ? undefined : Number(match[1]);
}

function bytes(value: string | undefined): number | undefined {
  const match = /^([\d.]+)\s+([KMGT]?i?B)$/.exec(value ?? '');
  const unit = UNITS[match?.[2] ?? ''];
  return match === null || unit === undefined ? undefined : Math.round(Number(match[1]) * unit);
}

function count(value: string | undefined): number | undefined {
  const match = /^(\d+)$/.exec(value ?? '');
  return match === null ? undefined : Number(match[1]);
}
