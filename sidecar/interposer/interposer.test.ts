// The swap on real sockets: virt-handler and QEMU are played by servers in a temporary directory.

import {
  existsSync,
  linkSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Interposer, type InterposerEvent, type InterposerOptions, type TakenSocket } from './interposer.ts';
import { openSocketDirectory, type SocketDirectory } from './socket-directory.ts';
import { socketNames } from './socket-names.ts';

const UID_1 = '0d6b5a1e-3c44-4e0a-9a53-5c1f8f3a9b01';
const UID_2 = '0d6b5a1e-3c44-4e0a-9a53-5c1f8f3a9b02';
const { stream, rpc, original, mark } = socketNames(UID_1);

let parent: string;
let directory: string;
let events: InterposerEvent[];
let interposers: Interposer[];
let servers: Server[];
let sockets: Socket[];

const at = (name: string) => join(directory, name);
const inode = (name: string) => lstatSync(at(name)).ino;
const names = () => readdirSync(directory).sort();

beforeEach(() => {
  parent = mkdtempSync(join(realpathSync(tmpdir()), 'ip-'));
  directory = join(parent, 'migrationproxy');
  events = [];
  interposers = [];
  servers = [];
  sockets = [];
});

afterEach(() => {
  for (const interposer of interposers) interposer.stop();
  for (const socket of sockets) socket.destroy();
  for (const server of servers) server.close();
  rmSync(parent, { recursive: true });
});

function start(options: Partial<InterposerOptions> = {}): Interposer {
  const interposer = new Interposer({ directory, report: (event) => events.push(event), ...options });
  interposers.push(interposer);
  return interposer;
}

/** Listens like virt-handler or QEMU, and answers every connection with `greeting`. */
async function listenAt(name: string, greeting: string): Promise<Server> {
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
    socket.end(greeting);
  });
  servers.push(server);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(at(name), () => resolve());
  });
  return server;
}

/** Connects and reads to the end. */
function ask(name: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = connect(at(name));
    sockets.push(socket);
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      answer += chunk;
    });
    socket.on('error', reject);
    socket.on('end', () => resolve(answer));
  });
}

/** Arms as a source; `via` answers connections that come through us with what the original says, marked. */
function armSource(interposer: Interposer) {
  const taken: TakenSocket[] = [];
  const armed = interposer.arm({
    migrationUid: UID_1,
    role: 'source',
    onTaken: (socket) => {
      taken.push(socket);
      relayMarked(socket);
    },
  });
  return { armed, taken };
}

/** As armSource, with virt-handler's sockets made and the place of the stream's taken. */
async function takeHandlers(interposer: Interposer) {
  const source = armSource(interposer);
  await listenAt(rpc, 'rpc');
  await listenAt(stream, 'handler');
  await taken(source.armed);
  return source;
}

function relayMarked(socket: TakenSocket): void {
  socket.listener.on('connection', async (accepted: Socket) => {
    sockets.push(accepted);
    const dialed = await socket.dial();
    sockets.push(dialed);
    accepted.write('via us: ');
    dialed.pipe(accepted);
  });
}

const taken = (armed: { standing: () => string }) =>
  vi.waitFor(() => expect(armed.standing()).toBe('taken'), { interval: 2, timeout: 3000 });

describe('the directory', () => {
  it('is made with the right mode, whatever the umask', () => {
    const umask = process.umask(0o077);
    try {
      start();
    } finally {
      process.umask(umask);
    }
    expect(lstatSync(directory).mode & 0o7777).toBe(0o755);
    expect(names()).toEqual([]);
  });

  it('is refused when it belongs to somebody else', () => {
    start();
    expect(() => start({ ownUid: 4242 })).toThrow(
      expect.objectContaining({ code: 'NASMIG_SOCKET_DIRECTORY_NOT_OURS' }),
    );
  });

  it('is refused when it is a file, or its parent is missing', () => {
    writeFileSync(directory, '');
    expect(() => start()).toThrow(expect.objectContaining({ code: 'NASMIG_SOCKET_DIRECTORY_UNUSABLE' }));
    rmSync(directory);
    expect(() => start({ directory: join(parent, 'a', 'b') })).toThrow(
      expect.objectContaining({ code: 'NASMIG_SOCKET_DIRECTORY_UNUSABLE' }),
    );
  });
});

describe('a place that cannot be taken', () => {
  const cannot = () => events.filter((event) => event.kind === 'cannot-take');
  const told = () => vi.waitFor(() => expect(cannot()).toHaveLength(1), { interval: 5, timeout: 5000 });
  /** Some binds later, and many scans. */
  const later = () => new Promise((resolve) => setTimeout(resolve, 700));

  it('is told once when no socket can be bound, before there is one to take the place of', async () => {
    const interposer = start();
    rmSync(directory, { recursive: true });
    armSource(interposer);
    await told();
    expect(cannot()).toMatchObject([{ migrationUid: UID_1, doing: 'binding a socket' }]);
    await later();
    expect(cannot()).toHaveLength(1);
    // Each try has another name.
    expect(
      events.filter((event) => event.kind === 'failed' && event.doing === 'binding a socket'),
    ).toHaveLength(1);
  });

  it('is told when the volume has no room for its names', async () => {
    const openDirectory = (path: string): SocketDirectory => ({
      ...openSocketDirectory(path),
      link: () => {
        throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
      },
    });
    const { armed } = armSource(start({ openDirectory }));
    await later();
    expect(cannot()).toEqual([]);
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    await told();
    expect(cannot()).toMatchObject([
      { doing: 'take', error: { message: expect.stringContaining('ENOSPC') } },
    ]);
    expect(armed.standing()).not.toBe('taken');
    expect(await ask(stream)).toBe('handler');
  });

  it('is not told when it fails for a moment twice, long after one another', async () => {
    let [binds, links] = [1, 1];
    const interposer = start({
      openDirectory: (path) => {
        const real = openSocketDirectory(path);
        return {
          ...real,
          stat: (name) => (name.startsWith('.nasmig-') && binds-- > 0 ? undefined : real.stat(name)),
          link(from, to) {
            if (links-- > 0)
              throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
            real.link(from, to);
          },
        };
      },
    });
    const { armed } = armSource(interposer);
    await later();
    expect(binds).toBeLessThanOrEqual(0);
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    await taken(armed);
    expect(links).toBeLessThan(0);
    expect(cannot()).toEqual([]);
  });

  it('is not told when it fails for a moment, or when only a spare is missing', async () => {
    // What is bound but not found counts as not bound: here the first socket.
    let refusals = 1;
    const interposer = start({
      openDirectory: (path) => {
        const real = openSocketDirectory(path);
        return {
          ...real,
          stat(name) {
            if (!name.startsWith('.nasmig-') || refusals === 0) return real.stat(name);
            refusals -= 1;
            return undefined;
          },
        };
      },
    });
    let places = 0;
    const armed = interposer.arm({
      migrationUid: UID_1,
      role: 'target',
      onTaken: (socket) => {
        relayMarked(socket);
        places += 1;
        // The spare that is bound next.
        refusals = 1;
      },
    });
    const qemu = await listenAt(stream, 'first');
    await taken(armed);
    await later();
    expect(refusals).toBe(0);
    // And the first one when it is made anew.
    refusals = 1;
    qemu.close();
    await listenAt(stream, 'second');
    await vi.waitFor(() => expect(places).toBe(2), { timeout: 3000 });
    expect(await ask(stream)).toBe('via us: second');
    expect(cannot()).toEqual([]);
  });
});

describe('without an announcement', () => {
  it('touches nothing', async () => {
    start();
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    const before = inode(stream);
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(inode(stream)).toBe(before);
    expect(names()).toEqual([stream, rpc].sort());
    expect(await ask(stream)).toBe('handler');
    expect(events).toEqual([]);
  });

  it('leaves the sockets of other migrations alone', async () => {
    const { armed } = armSource(start());
    await listenAt(rpc, 'rpc');
    const others = [socketNames(UID_2).stream, socketNames(UID_2).rpc, `${UID_1}-49153-source.sock`];
    for (const other of others) await listenAt(other, other);
    const before = others.map(inode);
    await listenAt(stream, 'handler');
    await taken(armed);
    expect(others.map(inode)).toEqual(before);
    armed.end();
    expect(others.map(inode)).toEqual(before);
    expect(names()).toEqual([...others, rpc, stream].sort());
  });
});

describe('the swap', () => {
  it('takes the place of a socket that comes after the announcement', async () => {
    const { armed } = armSource(start());
    expect(armed.standing()).toBe('waiting-for-socket');
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    const before = inode(stream);
    await taken(armed);
    expect(inode(original)).toBe(before);
    expect(inode(stream)).toBe(inode(mark));
    expect(inode(stream)).not.toBe(before);
    expect(await ask(stream)).toBe('via us: handler');
    expect(armed.connections()).toBe(1);
  });

  it('takes the place of a socket that was there before', async () => {
    const interposer = start();
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    const { armed } = armSource(interposer);
    await taken(armed);
    expect(await ask(stream)).toBe('via us: handler');
  });

  it('works as a target, where no RPC socket appears', async () => {
    const armed = start().arm({ migrationUid: UID_1, role: 'target', onTaken: relayMarked });
    await listenAt(stream, 'qemu');
    await taken(armed);
    expect(await ask(stream)).toBe('via us: qemu');
  });

  it('refuses the target role on a source', async () => {
    const interposer = start();
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    const before = inode(stream);
    const armed = interposer.arm({ migrationUid: UID_1, role: 'target', onTaken: relayMarked });
    await vi.waitFor(() => expect(armed.standing()).toBe('role-mismatch'));
    expect(inode(stream)).toBe(before);
    expect(await ask(stream)).toBe('handler');
  });

  it('waits for the owner', async () => {
    const { armed } = armSource(
      start({ ownUid: process.getuid?.() ?? 0, openDirectory: ownedBySomebodyElse }),
    );
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    const before = inode(stream);
    await vi.waitFor(() => expect(armed.standing()).toBe('waiting-for-owner'));
    expect(inode(stream)).toBe(before);
    givenToUs = true;
    await taken(armed);
    expect(await ask(stream)).toBe('via us: handler');
  });

  it('waits again when the link is refused or the socket vanishes in between', async () => {
    for (const code of ['EPERM', 'ENOENT']) {
      let refusals = 3;
      const armed = start({
        openDirectory: (path) => {
          const real = openSocketDirectory(path);
          return {
            ...real,
            link(existing, name) {
              if (name === original && refusals > 0) {
                refusals -= 1;
                throw Object.assign(new Error(code), { code });
              }
              real.link(existing, name);
            },
          };
        },
      }).arm({ migrationUid: UID_1, role: 'target', onTaken: relayMarked });
      const server = await listenAt(stream, 'qemu');
      await taken(armed);
      expect(refusals).toBe(0);
      expect(await ask(stream)).toBe('via us: qemu');
      armed.end();
      expect(names()).toEqual([stream]);
      server.close();
      expect(events.filter((event) => event.kind === 'failed')).toEqual([]);
    }
  });

  it('does not bury a socket that is made between the look and the rename', async () => {
    let isMadeAnew = false;
    const armed = start({
      openDirectory: (path) => {
        const real = openSocketDirectory(path);
        return {
          ...real,
          link(existing, name) {
            real.link(existing, name);
            if (name === original && !isMadeAnew) {
              isMadeAnew = true;
              // The other server's socket comes to the path in this very moment.
              renameSync(at('other'), at(stream));
            }
          },
        };
      },
    }).arm({ migrationUid: UID_1, role: 'target', onTaken: relayMarked });
    await listenAt('other', 'second');
    await listenAt(stream, 'first');
    await taken(armed);
    expect(isMadeAnew).toBe(true);
    expect(await ask(stream)).toBe('via us: second');
  });

  it('never leaves the path without a listener', async () => {
    const { armed } = armSource(start());
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    const answers = new Set<string>();
    let asked = 0;
    let isOver = false;
    const asker = (async () => {
      while (!isOver) {
        answers.add(await ask(stream));
        asked += 1;
      }
    })();
    await taken(armed);
    await vi.waitFor(() => expect(answers).toContain('via us: handler'));
    armed.end();
    const before = asked;
    await vi.waitFor(() => expect(asked).toBeGreaterThan(before + 3));
    isOver = true;
    await asker;
    expect([...answers].sort()).toEqual(['handler', 'via us: handler']);
  });

  it('works without events, by scanning alone', async () => {
    const { armed } = armSource(
      start({ openDirectory: (path) => ({ ...openSocketDirectory(path), watch: () => () => {} }) }),
    );
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    await taken(armed);
    expect(await ask(stream)).toBe('via us: handler');
  });

  it('scans when no watch can be had', async () => {
    const openDirectory = (path: string): SocketDirectory => ({
      ...openSocketDirectory(path),
      watch: () => {
        throw new Error('ENOSPC: no watches left');
      },
    });
    const { armed } = armSource(start({ openDirectory }));
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    await taken(armed);
    expect(await ask(stream)).toBe('via us: handler');
    expect(events).toContainEqual(
      expect.objectContaining({ kind: 'failed', doing: 'watching the directory' }),
    );
  });

  it('gives the place back when nobody serves the listener', async () => {
    const armed = start().arm({
      migrationUid: UID_1,
      role: 'target',
      onTaken: () => {
        throw new Error('no relay');
      },
    });
    await listenAt(stream, 'qemu');
    const before = inode(stream);
    await vi.waitFor(() =>
      expect(events).toContainEqual(
        expect.objectContaining({ kind: 'failed', doing: 'handing over the listener' }),
      ),
    );
    expect(armed.standing()).toBe('idle');
    expect(inode(stream)).toBe(before);
    expect(await ask(stream)).toBe('qemu');
  });

  it('does not repeat itself when every scan fails', async () => {
    let scans = 0;
    const armed = start({
      openDirectory: (path) => {
        const real = openSocketDirectory(path);
        return {
          ...real,
          stat(name) {
            if (name !== stream) return real.stat(name);
            scans += 1;
            throw Object.assign(new Error('EIO: broken'), { code: 'EIO' });
          },
        };
      },
    }).arm({ migrationUid: UID_1, role: 'target', onTaken: relayMarked });
    await vi.waitFor(() => expect(scans).toBeGreaterThan(3));
    expect(armed.standing()).toBe('waiting-for-socket');
    expect(events.filter((event) => event.kind === 'failed')).toHaveLength(1);
  });

  it('says so when something that is no socket is at the path', async () => {
    const interposer = start();
    writeFileSync(at(stream), 'not a socket');
    const armed = interposer.arm({ migrationUid: UID_1, role: 'target', onTaken: relayMarked });
    await vi.waitFor(() => expect(armed.standing()).toBe('not-a-socket'));
    expect(lstatSync(at(stream)).isFile()).toBe(true);
  });

  it('refuses a second announcement and a UID that is a path', () => {
    const interposer = start();
    armSource(interposer);
    expect(() => armSource(interposer)).toThrow(expect.objectContaining({ code: 'NASMIG_ALREADY_ARMED' }));
    expect(() =>
      interposer.arm({ migrationUid: '../../etc/x', role: 'source', onTaken: relayMarked }),
    ).toThrow(expect.objectContaining({ code: 'NASMIG_MIGRATION_UID_INVALID' }));
  });

  it('refuses a directory whose sockets have too long a path', () => {
    const long = join(parent, 'd'.repeat(60));
    const interposer = start({ directory: long });
    expect(() => armSource(interposer)).toThrow(
      expect.objectContaining({ code: 'NASMIG_SOCKET_PATH_TOO_LONG' }),
    );
  });

  it('reports a bind that fails, and succeeds later', async () => {
    let refusals = 1;
    const armed = start({
      openDirectory: (path) => {
        const real = openSocketDirectory(path);
        return {
          ...real,
          stat(name) {
            if (name.startsWith('.nasmig-') && refusals > 0) {
              refusals -= 1;
              return undefined;
            }
            return real.stat(name);
          },
        };
      },
    }).arm({ migrationUid: UID_1, role: 'target', onTaken: relayMarked });
    await listenAt(stream, 'qemu');
    await taken(armed);
    expect(events).toContainEqual(expect.objectContaining({ kind: 'failed', doing: 'binding a socket' }));
  });
});

let givenToUs = false;
function ownedBySomebodyElse(path: string): SocketDirectory {
  givenToUs = false;
  const real = openSocketDirectory(path);
  return {
    ...real,
    stat(name) {
      const entry = real.stat(name);
      return entry === undefined || givenToUs || name !== stream
        ? entry
        : { ...entry, ownerUid: entry.ownerUid + 1 };
    },
  };
}

describe('afterwards', () => {
  it('cleans up when virt-handler removes the path', async () => {
    const { armed, taken: sockets } = await takeHandlers(start());
    unlinkSync(at(stream));
    await vi.waitFor(() => expect(existsSync(at(original))).toBe(false));
    expect(existsSync(at(mark))).toBe(false);
    expect(armed.standing()).toBe('waiting-for-socket');
    expect(sockets[0]?.listener.listening).toBe(false);
    armed.end();
    expect(names()).toEqual([rpc]);
  });

  it('takes the place again when virt-handler makes the socket anew', async () => {
    const { armed, taken: sockets } = armSource(start());
    await listenAt(rpc, 'rpc');
    const first = await listenAt(stream, 'first');
    await taken(armed);
    unlinkSync(at(stream));
    first.close();
    await listenAt(stream, 'second');
    await vi.waitFor(() => expect(sockets.length).toBe(2));
    expect(await ask(stream)).toBe('via us: second');
    expect(names()).toEqual(
      [stream, rpc, original, mark, ...names().filter((n) => n.startsWith('.'))].sort(),
    );
  });

  it('puts the original back when decided against before the first connection', async () => {
    const { armed } = armSource(start());
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    const before = inode(stream);
    await taken(armed);
    expect(await armed.restore()).toBe('restored');
    expect(inode(stream)).toBe(before);
    expect(names()).toEqual([rpc, stream].sort());
    expect(await ask(stream)).toBe('handler');
    // Neither a scan nor an event takes it again.
    await listenAt('unrelated', '');
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(inode(stream)).toBe(before);
  });

  it('relays who connected in the moment of the restoring', async () => {
    const { armed } = await takeHandlers(start());
    const answer = ask(stream);
    expect(await armed.restore()).toBe('restored');
    expect(await answer).toBe('via us: handler');
  });

  it('is too late to restore after a connection', async () => {
    const { armed } = await takeHandlers(start());
    await ask(stream);
    expect(await armed.restore()).toBe('too-late');
    expect(await ask(stream)).toBe('via us: handler');
  });

  it('restores nothing where nothing was taken', async () => {
    const { armed } = armSource(start());
    expect(await armed.restore()).toBe('not-taken');
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    const before = inode(stream);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(inode(stream)).toBe(before);
    expect(names()).toEqual([rpc, stream].sort());
  });

  it('lets nobody reach the original after a failed migration', async () => {
    const { armed, taken: sockets } = await takeHandlers(start());
    await ask(stream);
    armed.close();
    expect(names()).toEqual([rpc]);
    await expect(ask(stream)).rejects.toThrow('ENOENT');
    expect(sockets[0]?.listener.listening).toBe(false);
  });

  it('leaves a socket alone that was made anew, whatever became of the migration', async () => {
    const { armed } = armSource(start());
    await listenAt(rpc, 'rpc');
    const first = await listenAt(stream, 'first');
    await taken(armed);
    unlinkSync(at(stream));
    first.close();
    await listenAt(stream, 'second');
    armed.close();
    expect(names()).toEqual([rpc, stream].sort());
    expect(await ask(stream)).toBe('second');
  });

  it('takes nothing once it is stopped, when nobody would give it back', async () => {
    const interposer = start();
    interposer.stop();
    await listenAt(rpc, 'rpc');
    await listenAt(stream, 'handler');
    expect(() => armSource(interposer)).toThrow(
      expect.objectContaining({ code: 'NASMIG_INTERPOSER_STOPPED' }),
    );
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(names()).toEqual([stream, rpc].sort());
  });

  it('gives everything back when it is stopped', async () => {
    const interposer = start();
    await takeHandlers(interposer);
    interposer.stop();
    expect(names()).toEqual([rpc, stream].sort());
    expect(await ask(stream)).toBe('handler');
  });

  it('lets nobody reach the original when it is stopped after a connection', async () => {
    const interposer = start();
    await takeHandlers(interposer);
    await ask(stream);
    interposer.stop();
    expect(names()).toEqual([rpc]);
  });

  it('serves a target that becomes a source', async () => {
    const interposer = start();
    const incoming = interposer.arm({ migrationUid: UID_1, role: 'target', onTaken: relayMarked });
    const qemu = await listenAt(stream, 'qemu');
    await taken(incoming);
    // QEMU removes the name when the incoming migration is over.
    unlinkSync(at(stream));
    qemu.close();
    incoming.end();
    const next = socketNames(UID_2);
    const outgoing = interposer.arm({ migrationUid: UID_2, role: 'source', onTaken: relayMarked });
    await listenAt(next.rpc, 'rpc');
    await listenAt(next.stream, 'handler');
    await taken(outgoing);
    expect(await ask(next.stream)).toBe('via us: handler');
    outgoing.end();
    expect(names()).toEqual([next.rpc, next.stream].sort());
  });
});

describe('after a crash', () => {
  /** What a killed predecessor leaves: a socket that answers nobody, and the links beside it. */
  async function leaveDead(): Promise<number> {
    await listenAt(stream, 'handler');
    const handlers = inode(stream);
    renameSync(at(stream), at(original));
    const ours = await listenAt('predecessor', '');
    linkSync(at('predecessor'), at(mark));
    renameSync(at('predecessor'), at(stream));
    await new Promise((resolve) => ours.close(resolve));
    return handlers;
  }

  it('puts the original back', async () => {
    start().stop();
    const handlers = await leaveDead();
    await expect(ask(stream)).rejects.toThrow('ECONNREFUSED');
    start();
    expect(inode(stream)).toBe(handlers);
    expect(names()).toEqual([stream]);
    expect(await ask(stream)).toBe('handler');
  });

  it('takes the place again when it is announced', async () => {
    start().stop();
    await leaveDead();
    await listenAt(rpc, 'rpc');
    const { armed } = armSource(start());
    await taken(armed);
    expect(await ask(stream)).toBe('via us: handler');
  });

  it('leaves the new socket alone where virt-handler has made one meanwhile', async () => {
    start().stop();
    await leaveDead();
    unlinkSync(at(stream));
    await listenAt(stream, 'anew');
    const before = inode(stream);
    start();
    expect(inode(stream)).toBe(before);
    expect(names()).toEqual([stream]);
    expect(await ask(stream)).toBe('anew');
  });

  it('removes temporary sockets, and no name that is not ours', async () => {
    start().stop();
    await listenAt('.nasmig-0123456789ab', '');
    for (const name of ['something.orig', `${UID_1}-49153-source.sock.orig`]) writeFileSync(at(name), '');
    start();
    expect(names()).toEqual(['something.orig', `${UID_1}-49153-source.sock.orig`].sort());
  });
});
