import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { describe, expect, it } from 'vitest';
import { freePort, freePorts } from './free-ports.ts';

describe('free ports', () => {
  it('differ, can be listened on, and are none that the kernel gives to outgoing connections', async () => {
    const ports = await freePorts(50);
    expect(new Set(ports).size).toBe(50);
    const [firstOutgoing] = (await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'))
      .trim()
      .split(/\s+/);
    expect(Math.max(...ports)).toBeLessThan(Number(firstOutgoing));
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(ports[0], '127.0.0.1', resolve);
    });
    await new Promise((resolve) => server.close(resolve));
  });

  it('are asked for one by one, too', async () => {
    expect(await freePort()).toBeGreaterThan(1024);
  });
});
