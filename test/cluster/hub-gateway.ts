// A process in a lab node's network namespace: pods that connect to its TCP port are joined to a unix socket of the run.
// virt-handler's proxy would not do: it does not pass on that a connection has ended. Arguments: port, socket.

import { connect, createServer, type Socket } from 'node:net';
import { joinSockets } from './socket-relay.ts';

const [port, socketPath] = process.argv.slice(2);
if (port === undefined || socketPath === undefined) throw new Error('usage: hub-gateway PORT SOCKET');

const open = new Set<Socket>();
const server = createServer({ allowHalfOpen: true }, (pod) =>
  joinSockets(pod, connect({ path: socketPath, allowHalfOpen: true }), open),
);
server.listen(Number(port), '0.0.0.0', () => console.log('listening'));
