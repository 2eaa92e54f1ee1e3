// Ports on loopback for servers that are started, stopped and started again where their clients expect them.

import { randomInt } from 'node:crypto';
import { createServer, type Server } from 'node:net';

const HOST = '127.0.0.1';
/** Below what Linux takes for outgoing connections (from 32768 on): between two starts of a server none of those gets its port. */
const FIRST_PORT = 20_000;
const PORTS = 10_000;
const MAX_ATTEMPTS = 100;

/** `count` different ports that nobody listens on. */
export async function freePorts(count: number): Promise<number[]> {
  const held = new Map<number, Server>();
  try {
    for (let attempt = 0; held.size < count; attempt += 1) {
      if (attempt === MAX_ATTEMPTS + count)
        throw new Error(`no ${count} free ports after ${attempt} attempts`);
      const port = FIRST_PORT + randomInt(PORTS);
      const server = await listening(port);
      if (server !== undefined) held.set(port, server);
    }
    return [...held.keys()];
  } finally {
    await Promise.all([...held.values()].map((server) => new Promise((resolve) => server.close(resolve))));
  }
}

export async function freePort(): Promise<number> {
  const [port] = await freePorts(1);
  if (port === undefined) throw new TypeError('one port was asked for');
  return port;
}

/** Undefined when the port is taken. */
function listening(port: number): Promise<Server | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen(port, HOST, () => resolve(server));
  });
}
