// The agent with the real interposer in a directory of its own; the hub is played, and so is time where it is waited for long.

import { lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { ControlClientOptions } from '../../control/client.ts';
import { exampleArm } from '../../control/example-messages.ts';
import type { HubMessage, SidecarMessage } from '../../control/messages.ts';
import { Interposer } from '../interposer/interposer.ts';
import { socketNames } from '../interposer/socket-names.ts';
import { Agent } from './agent.ts';
import { agentConfigFrom } from './agent-config.ts';

/** The hub as the agent's client shows it. */
const hub = vi.hoisted(() => ({
  options: undefined as ControlClientOptions | undefined,
  sent: [] as SidecarMessage[],
  /** Ends the wait of close(). */
  closed: (): void => {},
}));

vi.mock('../../control/client.ts', () => ({
  ControlClient: class {
    highestEpoch = 0;
    constructor(options: ControlClientOptions) {
      hub.options = options;
    }
    start(): void {
      hub.options?.onConnected?.(true, '');
    }
    send(message: SidecarMessage): boolean {
      hub.sent.push(message);
      return true;
    }
    close(): Promise<void> {
      return new Promise((resolve) => {
        hub.closed = resolve;
      });
    }
  },
}));

const VOLUME = exampleArm.volumes[0] ?? '';
const { migrationUid } = exampleArm;
const { stream } = socketNames(migrationUid);
const target: HubMessage = { ...exampleArm, role: 'target' };
const eventually = <T>(value: () => T) => expect.poll(value, { timeout: 10_000, interval: 5 });

let parent: string;
let directory: string;
let interposer: Interposer;
let agent: Agent;
let qemu: Server | undefined;

const tell = (message: HubMessage) => hub.options?.onMessage(message);
/** Of the migration's messages, the last: its type and reason. */
const last = () => {
  const message = hub.sent.findLast(({ type }) => type !== 'stats' && type !== 'result');
  return message === undefined ? '' : `${message.type} ${'reason' in message ? message.reason : ''}`.trim();
};
const phase = () => hub.options?.hello().migrations[0]?.phase;
/** What is ours in the directory. */
const ours = () => readdirSync(directory).filter((name) => name !== stream);

beforeEach(async () => {
  parent = mkdtempSync(join(tmpdir(), 'nm-'));
  directory = join(parent, 's');
  mkdirSync(join(parent, 'volumes', VOLUME), { recursive: true });
  writeFileSync(join(parent, 'volumes', VOLUME, 'disk.img'), Buffer.alloc(64 * 4096, 7));
  hub.sent.length = 0;
  qemu = undefined;
  interposer = new Interposer({ directory, report: (event) => agent?.onInterposer(event) });
  const config = agentConfigFrom({
    NASMIG_HUB_URL: 'wss://hub.test',
    NASMIG_TOKEN_FILE: 'none',
    NASMIG_CA_FILE: 'none',
    NASMIG_POD_NAMESPACE: 'shop',
    NASMIG_POD_NAME: 'virt-launcher-db',
    NASMIG_POD_UID: '0d6b5a1e-3c44-4e0a-9a53-5c1f8f3a9b02',
    NASMIG_VMI_NAME: 'db',
    NASMIG_VMI_UID: '0d6b5a1e-3c44-4e0a-9a53-5c1f8f3a9b03',
    NASMIG_RUN_DIR: parent,
    NASMIG_VOLUMES_DIR: join(parent, 'volumes'),
  });
  agent = new Agent({ config, interposer, socketProblem: '', log: pino({ level: 'silent' }) });
});

afterEach(async () => {
  vi.useRealTimers();
  const stopped = agent.stop();
  hub.closed();
  await stopped;
  interposer.stop();
  qemu?.close();
  rmSync(parent, { recursive: true, force: true });
});

async function listen(): Promise<Server> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(join(directory, stream), resolve));
  return server;
}

/** QEMU made its socket, and its place is taken. */
async function armed(): Promise<void> {
  qemu = await listen();
  tell(target);
  await eventually(phase).toBe('armed');
}

/** Time alone: sockets and files stay as they are. */
async function startWithClock(): Promise<void> {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] });
  await agent.start();
}

const MINUTE_MS = 60_000;

describe('a sidecar that stops', () => {
  it('takes no socket for an ARM that comes then, and says why', async () => {
    await agent.start();
    const stopping = agent.stop();
    qemu = await listen();
    const { ino } = lstatSync(join(directory, stream));
    tell(target);
    expect(last()).toBe('raw SidecarStopping');
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(ours()).toEqual([]);
    expect(lstatSync(join(directory, stream)).ino).toBe(ino);
    hub.closed();
    await stopping;
  });
});

describe('a socket that cannot be taken', () => {
  it('makes the migration plain, with its reason', async () => {
    await agent.start();
    rmSync(directory, { recursive: true });
    tell(target);
    await eventually(last).toBe('raw SocketNotTaken');
    const raw = hub.sent.findLast(({ type }) => type === 'raw');
    expect(raw).toMatchObject({ detail: expect.stringContaining('binding a socket') });
    await eventually(phase).toBe('finished');
  });
});

describe('a side that waits for a migration of which nobody speaks any more', () => {
  it('gives up when its socket is gone for long, and not before', async () => {
    await startWithClock();
    await armed();
    // Takes its name away, too.
    qemu?.close();
    await eventually(phase).toBe('arming');
    vi.advanceTimersByTime(MINUTE_MS / 2);
    expect(phase()).toBe('arming');
    vi.advanceTimersByTime(MINUTE_MS);
    expect(last()).toBe('raw MigrationOver');
    await eventually(ours).toEqual([]);
    await eventually(phase).toBe('finished');
  });

  it('waits on for one that was made anew', async () => {
    await startWithClock();
    await armed();
    // Takes its name away, too.
    qemu?.close();
    await eventually(phase).toBe('arming');
    vi.advanceTimersByTime(MINUTE_MS / 2);
    qemu = await listen();
    await eventually(phase).toBe('armed');
    vi.advanceTimersByTime(MINUTE_MS);
    expect(last()).toBe('armed');
  });

  it('gives its socket back when it has been without an operator for minutes', async () => {
    await startWithClock();
    await armed();
    const connected = (is: boolean) => hub.options?.onConnected?.(is, '');
    connected(false);
    vi.advanceTimersByTime(4 * MINUTE_MS);
    connected(true);
    vi.advanceTimersByTime(4 * MINUTE_MS);
    connected(false);
    vi.advanceTimersByTime(2 * MINUTE_MS);
    // Told again with each attempt.
    connected(false);
    vi.advanceTimersByTime(2 * MINUTE_MS);
    expect(phase()).toBe('armed');
    vi.advanceTimersByTime(2 * MINUTE_MS);
    expect(last()).toBe('raw HubUnreachable');
    await eventually(ours).toEqual([]);
  });

  it('keeps a connection that QEMU has made', async () => {
    await startWithClock();
    const rpc = createServer().listen(join(directory, socketNames(migrationUid).rpc));
    qemu = await listen();
    tell(exampleArm);
    await eventually(phase).toBe('armed');
    hub.options?.onConnected?.(false, '');
    vi.advanceTimersByTime(4.9 * MINUTE_MS);
    const client = connect(join(directory, stream)).on('error', () => {});
    await eventually(phase).toBe('holding');
    vi.advanceTimersByTime(MINUTE_MS);
    expect(last()).toBe('holding');
    client.destroy();
    rpc.close();
  });
});
