// What may be left in a socket directory after a run, and what may not. virt-handler removes its sockets when it stops; a proxy of
// it that was killed leaves its own, as a virt-handler that dies does. Everything else that is left is ours.

import type { Fault } from './expected-outcomes.ts';

/** Inodes by name, as in the directory. */
export type Inodes = ReadonlyMap<string, number>;

const SOCKET = /-source\.sock$/;
const SOURCE_PROXY_DIES: readonly Fault[] = ['source-proxy-killed', 'source-libvirt-connection-killed'];

/**
 * The sockets that virt-handler made in its source's directory. A sidecar links the original aside before it takes its name, so the
 * second look says of every name in the first whether that was the original still.
 */
export function madeByVirtHandler(first: Inodes, second: Inodes): ReadonlySet<number> {
  const sockets = [...first].filter(([name]) => SOCKET.test(name));
  return new Set(sockets.map(([name, inode]) => second.get(`${name}.orig`) ?? inode));
}

/** Names in the source's directory that should be gone. `made`: what virt-handler made there before the fault. */
export function leftAtSource(now: Inodes, fault: Fault, made: ReadonlySet<number>): string[] {
  const mayStay = ([name, inode]: [string, number]): boolean =>
    SOURCE_PROXY_DIES.includes(fault) && SOCKET.test(name) && made.has(inode);
  return [...now].filter((entry) => !mayStay(entry)).map(([name]) => name);
}
