// A sidecar that takes sockets' places and passes bytes on as they are: the smallest program around the interposer.
// It shows that a migration goes through two of them unharmed, and what the swap alone costs. Orders come and news
// go as JSON lines on a unix socket, whose path is the second argument; the first is the socket directory.
// It runs as process 1 of a container (launcher-pod.ts), so that it must answer SIGTERM by itself.

import { createHash } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { type ArmedMigration, Interposer, type TakenSocket } from '../../sidecar/interposer/interposer.ts';
import type { RelayNews, RelayOrder } from './relay-news.ts';

const [directory, controlSocket] = process.argv.slice(2);
if (directory === undefined || controlSocket === undefined) {
  throw new Error('usage: relay-sidecar SOCKET-DIRECTORY CONTROL-SOCKET');
}

const listeners = new Set<Socket>();
const told: string[] = [];

function tell(news: RelayNews): void {
  const line = `${JSON.stringify(news)}\n`;
  told.push(line);
  for (const listener of listeners) listener.write(line);
}

const interposer = new Interposer({
  directory,
  report: (event) => {
    switch (event.kind) {
      case 'standing':
        return tell({ kind: 'standing', standing: event.standing });
      case 'acted':
        return tell({ kind: 'acted', action: event.action.kind });
      case 'cleaned':
        return tell({ kind: 'acted', action: `clean ${event.name}` });
      case 'failed':
        return tell({ kind: 'failed', message: `${event.doing}: ${event.error.message}` });
    }
  },
});
const armed = new Map<string, ArmedMigration>();

function relay(socket: TakenSocket): void {
  socket.listener.on('connection', (accepted: Socket) => {
    accepted.on('error', () => accepted.destroy());
    socket.dial().then(
      (dialed) => join(socket, accepted, dialed),
      (error: Error) => {
        tell({ kind: 'dial-failed', migrationUid: socket.migrationUid, message: error.message });
        accepted.destroy();
      },
    );
  });
}

function join(socket: TakenSocket, accepted: Socket, dialed: Socket): void {
  const forward = count(accepted);
  const back = count(dialed);
  tell({ kind: 'connected', migrationUid: socket.migrationUid });
  accepted.pipe(dialed);
  dialed.pipe(accepted);
  accepted.on('close', () => dialed.destroySoon());
  dialed.on('error', () => dialed.destroy());
  dialed.on('close', () => {
    accepted.destroySoon();
    tell({ kind: 'relayed', migrationUid: socket.migrationUid, forward: forward(), back: back() });
  });
}

/** Counts and hashes what comes out of a socket. */
function count(socket: Socket): () => { bytes: number; sha256: string } {
  const hash = createHash('sha256');
  let bytes = 0;
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    hash.update(chunk);
  });
  return () => ({ bytes, sha256: hash.digest('hex') });
}

async function obey(order: RelayOrder): Promise<void> {
  const { migrationUid } = order;
  switch (order.op) {
    case 'arm':
      armed.set(migrationUid, interposer.arm({ migrationUid, role: order.role, onTaken: relay }));
      tell({ kind: 'armed', migrationUid });
      return;
    case 'restore':
      tell({
        kind: 'restored',
        migrationUid,
        outcome: (await armed.get(migrationUid)?.restore()) ?? 'not-taken',
      });
      return;
    case 'end':
      armed.get(migrationUid)?.end();
      armed.delete(migrationUid);
      tell({ kind: 'ended', migrationUid });
      return;
  }
}

createServer((socket) => {
  listeners.add(socket);
  socket.on('error', () => socket.destroy());
  socket.on('close', () => listeners.delete(socket));
  for (const line of told) socket.write(line);
  createInterface({ input: socket }).on('line', (line) => {
    obey(JSON.parse(line) as RelayOrder).catch((error: Error) =>
      tell({ kind: 'refused', message: error.message }),
    );
  });
}).listen(controlSocket);

process.on('SIGTERM', () => {
  interposer.stop();
  process.exit(0);
});
