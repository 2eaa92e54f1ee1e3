// Joins two sockets byte for byte, with half-closes and breaks passed on: what a Service is between a pod and the operator.

import type { Socket } from 'node:net';

/** Both must allow half-open. They are in `open` as long as they live. */
export function joinSockets(one: Socket, other: Socket, open: Set<Socket>): void {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    open.add(from);
    from.on('error', () => to.destroy());
    from.on('close', () => {
      open.delete(from);
      to.destroy();
    });
    from.pipe(to);
  }
}
