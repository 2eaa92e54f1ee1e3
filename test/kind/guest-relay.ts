// Hears a VM's guest in whichever launcher pod it is: frame-relay at the tap of each pod, its streams joined to a socket of the
// guest's observer. A pod that goes takes its relay with it.
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import type { GuestObserver } from '../lab/guest-observer.ts';
import { KindNode } from './kind-node.ts';

export const RELAY_ON_NODE = '/usr/local/bin/nasmig-frame-relay';
/** KubeVirt's name of the tap of a VM's first network. */
const TAP = 'tap0';
const READY_TIMEOUT_MS = 20_000;

/** A pod of the VM. */
export interface RelayedPod {
  readonly uid: string;
  readonly node: KindNode;
  /** Of any of its containers. */
  readonly pid: number;
}

export class GuestRelay {
  readonly observer: GuestObserver;
  readonly #directory: string;
  readonly #relays = new Map<string, { process: ChildProcessWithoutNullStreams; socket: Socket }>();

  /** `directory`: short, because a socket's path may have 107 bytes. */
  constructor(observer: GuestObserver, directory: string) {
    this.observer = observer;
    this.#directory = directory;
  }

  /** Attaches to a pod; a second time does nothing. Resolves when the relay looks at the tap. */
  async attach(pod: RelayedPod): Promise<void> {
    if (this.#relays.has(pod.uid)) return;
    const path = join(this.#directory, `${pod.uid.slice(0, 8)}.sock`);
    await this.observer.listen(path, pod.node.name);
    const socket = connect(path);
    const process = pod.node.spawn(KindNode.inNetworkOf(pod.pid, [RELAY_ON_NODE, TAP]));
    this.#relays.set(pod.uid, { process, socket });
    const end = (): void => {
      this.#relays.delete(pod.uid);
      socket.destroy();
      process.kill();
    };
    process.stdout.pipe(socket, { end: false });
    socket.pipe(process.stdin, { end: false });
    for (const stream of [socket, process.stdin, process.stdout]) stream.on('error', end);
    process.once('close', end);
    await this.#ready(process);
  }

  has(uid: string): boolean {
    return this.#relays.has(uid);
  }

  async close(): Promise<void> {
    for (const { process, socket } of this.#relays.values()) {
      process.stdin.end();
      process.kill();
      socket.destroy();
    }
    this.#relays.clear();
    await this.observer.close();
  }

  #ready(process: ChildProcessWithoutNullStreams): Promise<void> {
    return new Promise((resolve, reject) => {
      let said = '';
      const timer = setTimeout(
        () => finish(new Error(`not ready in ${READY_TIMEOUT_MS} ms`)),
        READY_TIMEOUT_MS,
      );
      const finish = (problem?: Error): void => {
        clearTimeout(timer);
        if (problem === undefined) resolve();
        else reject(new Error(`frame-relay at ${TAP}: ${problem.message}; it said: ${said.trim()}`));
      };
      process.once('error', finish);
      process.once('close', (code) => finish(new Error(`ended with ${code}`)));
      process.stderr.on('data', (chunk: Buffer) => {
        said = (said + chunk.toString()).slice(-4096);
        if (said.includes('frame-relay: on ')) finish();
      });
    });
  }
}
