// A target's session over a real socket: who came and went without being a source has not begun the migration.

import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exampleArm } from '../../control/example-messages.ts';
import type { Result } from '../../control/messages.ts';
import { dialUnix } from '../dial.ts';
import type { Announcement, ArmedMigration, Interposer, TakenSocket } from '../interposer/interposer.ts';
import { helloFrame } from '../link/frame-writer.ts';
import { encodeSourceHello, migrationIdFromUid, randomHello } from '../link/hello.ts';
import { deriveProofKey } from '../link/link-keys.ts';
import type { Volume } from '../nas/volume.ts';
import { indexOf } from '../test-pipeline.ts';
import { atEnd, cleanUp, guest, listening, sleep, within } from '../test-rig.ts';
import type { IndexKeeper } from './index-keeper.ts';
import { MigrationSession } from './migration-session.ts';

/** Well above the time after which a session without connections ends. */
const IDLE_MS = 700;

let at: (name: string) => string;
let session: MigrationSession;
let results: Result[];
let pauses: number;
let atQemu: Buffer[];
/** How the socket's place was given up. */
let givenUp: string[];
let told: string[];
/** What there is for the pipeline, when it is there. */
let forMigration: IndexKeeper['forMigration'];
let leftOut: readonly string[];
/** Begins the session, and takes the socket's place. */
let begin: () => Promise<void>;

/** As the interposer would call it: the socket's place is taken. */
let taken: (listener: Server) => void;

beforeEach(async () => {
  const directory = mkdtempSync(join(tmpdir(), 'nasmig-session-'));
  atEnd(() => rmSync(directory, { recursive: true, force: true }));
  at = (name) => join(directory, name);
  results = [];
  pauses = 0;
  atQemu = [];
  givenUp = [];
  told = [];
  leftOut = [];
  const { volume } = guest({ channels: 0, pages: 50 });
  const interposer = {
    arm: ({ onTaken, migrationUid, role }: Announcement) => {
      taken = (listener) =>
        onTaken({
          ...{ migrationUid, role, listener },
          dialPath: () => at('qemu.sock'),
          dial: () => dialUnix(at('qemu.sock'), 1000),
        } satisfies TakenSocket);
      return {
        end: () => givenUp.push('put back'),
        close: () => givenUp.push('closed'),
      } as Partial<ArmedMigration> as ArmedMigration;
    },
  } as Partial<Interposer> as Interposer;
  const index = {
    pause: () => {
      pauses += 1;
    },
    resume: () => {
      pauses -= 1;
    },
    inherited: () => {},
    addReadBytes: () => {},
    forMigration: () => forMigration(),
    get leftOut() {
      return leftOut;
    },
  } as unknown as IndexKeeper;
  forMigration = async () => ({ index: indexOf([volume]).index, volumes: [volume] as unknown as Volume[] });
  const order = { ...exampleArm, role: 'target' as const, volumes: [volume.name] };
  session = new MigrationSession(order, {
    interposer,
    index,
    log: () => {},
    progress: () => {},
    result: (result) => results.push(result),
    news: (_, news) => {
      told.push(news.type === 'declined' ? `declined: ${news.reason}` : news.type);
      if (news.type === 'connection') session.startFramed(order);
    },
  });
  await listening(at('qemu.sock'), (socket) => {
    socket.on('end', () => socket.end());
    socket.on('data', (bytes: Buffer) => atQemu.push(bytes)).resume();
  });
  begin = async () => {
    session.takeSocket(order);
    taken(await listening(at('target.sock'), () => {}));
  };
});

afterEach(() => {
  session.stop();
  expect(results).toHaveLength(1);
  expect(pauses).toBe(0);
  cleanUp();
});

async function client(bytes: Uint8Array | string = ''): Promise<Socket> {
  const socket = connect({ path: at('target.sock'), allowHalfOpen: true });
  socket.on('error', () => socket.destroy());
  atEnd(() => socket.destroy());
  await new Promise<void>((resolve) => socket.once('connect', resolve));
  if (bytes.length > 0) socket.write(bytes);
  socket.resume();
  return socket;
}

function hello(sessionKey: Uint8Array): Buffer {
  const body = encodeSourceHello(
    {
      ordinal: 0,
      mode: 'framed',
      random: randomHello(),
      migrationId: migrationIdFromUid(exampleArm.migrationUid),
      volumes: [],
    },
    deriveProofKey(sessionKey),
  );
  return Buffer.concat(helloFrame(body));
}

const key = Buffer.from(exampleArm.sessionKey, 'base64');

describe('a session that is to be armed', () => {
  it('tells that it has the socket when it could also serve it', async () => {
    const found = await forMigration();
    let arrive = (_: typeof found): void => {};
    forMigration = () =>
      new Promise((resolve) => {
        arrive = resolve;
      });
    await begin();
    await sleep(50);
    expect(told).toEqual([]);
    arrive(found);
    expect(await within(1000, () => told.length > 0)).toBe(true);
    expect(told).toEqual(['socketTaken']);
  });

  it.each([
    ['nothing to serve it with', 'VolumeNotReadable', ['another']],
    ['only a volume that the index has no room for', 'VolumeTooLarge', ['another', 'root']],
  ])('declines when there is %s', async (_, reason, without) => {
    forMigration = async () => undefined;
    leftOut = without;
    await begin();
    expect(await within(1000, () => told.length > 0)).toBe(true);
    await sleep(50);
    expect(told).toEqual([`declined: ${reason}`]);
  });
});

describe("a target's session", () => {
  beforeEach(() => begin());

  it('outlasts connections that say nothing or prove nothing, and serves the source that comes then', async () => {
    (await client()).destroy();
    const forger = await client(hello(Buffer.alloc(32, 9)));
    expect(await within(3000, () => forger.readableEnded)).toBe(true);
    forger.destroy();
    await sleep(IDLE_MS);
    expect(session.ended).toBe(false);
    let answered = 0;
    const source = await client(hello(key));
    source.on('data', (bytes: Buffer) => {
      answered += bytes.length;
    });
    expect(await within(3000, () => answered > 0)).toBe(true);
    source.destroy();
    expect(await within(3000, () => session.ended)).toBe(true);
    expect(results).toMatchObject([{ outcome: 'failed', role: 'target' }]);
    // A connection of the source's QEMU that is still on its way must not reach the target's alone.
    expect(givenUp).toEqual(['closed']);
    // What lay between is none of its time.
    expect(results[0]?.durationMs).toBeLessThan(IDLE_MS);
  });

  it('and the one that is relayed as it is', async () => {
    (await client()).destroy();
    await sleep(IDLE_MS);
    const source = await client('no magic of ours');
    expect(await within(3000, () => Buffer.concat(atQemu).toString() === 'no magic of ours')).toBe(true);
    source.destroy();
    expect(await within(3000, () => session.ended)).toBe(true);
    expect(results).toMatchObject([{ outcome: 'raw', reason: 'PeerRaw' }]);
    expect(givenUp).toEqual(['put back']);
  });

  it('was not used when nobody else came', async () => {
    (await client()).destroy();
    await sleep(IDLE_MS);
    session.stop();
    expect(results).toMatchObject([{ outcome: 'unused' }]);
    expect(givenUp).toEqual(['put back']);
  });

  it('says what somebody did who proved nothing, when nobody else came', async () => {
    const forger = await client(hello(Buffer.alloc(32, 9)));
    expect(await within(3000, () => forger.readableEnded)).toBe(true);
    forger.destroy();
    await sleep(IDLE_MS);
    session.stop();
    expect(results).toMatchObject([{ outcome: 'failed', reason: 'LinkHandshakeFailed' }]);
    // The source has not come: it still can, plainly.
    expect(givenUp).toEqual(['put back']);
  });

  it.each([
    ['in the middle', () => hello(key)],
    ['before it knew whose connection it had', () => hello(key).subarray(0, 5)],
  ])('lets nobody reach QEMU who comes after the sidecar was stopped %s', async (_, said) => {
    await client(said());
    await sleep(100);
    session.stop();
    expect(results).toMatchObject([{ outcome: 'failed', reason: 'SidecarStopping' }]);
    expect(givenUp).toEqual(['closed']);
  });
});
