// What virsh of libvirt 11.3 printed after a migration, and what it prints otherwise.

import { describe, expect, it } from 'vitest';
import { parseJobInfo } from './migration-job.ts';

const COMPLETED = `Job type:         Completed   
Operation:        Outgoing migration
Time elapsed:     2233         ms
Time elapsed w/o network: 2181         ms
Data processed:   116.561 MiB
Data remaining:   0.000 B
Data total:       256.508 MiB
Memory processed: 116.561 MiB
Memory remaining: 0.000 B
Memory total:     256.508 MiB
Memory bandwidth: 126.285 MiB/s
Dirty rate:       0            pages/s
Page size:        4096         bytes
Iteration:        3           
Postcopy requests: 0           
Constant pages:   36216       
Normal pages:     29610       
Normal data:      115.664 MiB
Total downtime:   346          ms
Downtime w/o network: 294          ms
Setup time:       12           ms

`;

describe('parseJobInfo', () => {
  it('reads the account of a migration', () => {
    expect(parseJobInfo(COMPLETED)).toEqual({
      type: 'Completed',
      elapsedMs: 2233,
      downtimeMs: 346,
      memoryProcessedBytes: Math.round(116.561 * 1024 * 1024),
      memoryTotalBytes: Math.round(256.508 * 1024 * 1024),
      iterations: 3,
    });
  });

  it('knows when there is none', () => {
    expect(parseJobInfo('Job type:         None\n')).toBeUndefined();
    expect(parseJobInfo('')).toBeUndefined();
  });

  it('leaves out what it cannot read', () => {
    expect(parseJobInfo('Job type: Failed\nTime elapsed: soon\nMemory total: 3 bushels\n')).toEqual({
      type: 'Failed',
      elapsedMs: undefined,
      downtimeMs: undefined,
      memoryProcessedBytes: undefined,
      memoryTotalBytes: undefined,
      iterations: undefined,
    });
  });
});
