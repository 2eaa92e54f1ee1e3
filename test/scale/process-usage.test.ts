import { describe, expect, it } from 'vitest';
import { usageOf } from './process-usage.ts';

describe('process usage', () => {
  it('is what the kernel says of a process', async () => {
    const usage = await usageOf(process.pid);
    const own = process.memoryUsage.rss() / 1024 / 1024;
    expect(usage.rssMiB).toBeGreaterThan(own / 2);
    expect(usage.rssMiB).toBeLessThan(own * 2);
    expect(usage.maxRssMiB).toBeGreaterThanOrEqual(usage.rssMiB);
    expect(usage.descriptors).toBeGreaterThan(3);
    expect(usage.cpuSeconds).toBeGreaterThan(0);
  });
});
