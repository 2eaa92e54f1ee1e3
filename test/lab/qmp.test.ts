import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { QmpClient, QmpClosedError, QmpCommandError, QmpProtocolError, QmpTimeoutError } from './qmp.ts';

const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 13, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}\r\n';

interface Command {
  execute: string;
  id: number;
  arguments?: unknown;
}

/** A QEMU that answers as `answer` says; qmp_capabilities it accepts by itself. */
class FakeQemu {
  readonly path: string;
  readonly commands: Command[] = [];
  socket: Socket | null = null;
  readonly #server: Server;

  constructor(path: string, answer: (command: Command, socket: Socket) => void, greeting = GREETING) {
    this.path = path;
    this.#server = createServer((socket) => {
      this.socket = socket;
      socket.on('error', () => undefined);
      let text = '';
      socket.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
        for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
          const command = JSON.parse(text.slice(0, end)) as Command;
          text = text.slice(end + 1);
          this.commands.push(command);
          if (command.execute === 'qmp_capabilities') socket.write(`{"return": {}, "id": ${command.id}}\r\n`);
          else answer(command, socket);
        }
      });
      socket.write(greeting);
    });
  }

  listen(): Promise<void> {
    return new Promise((resolve) => this.#server.listen(this.path, resolve));
  }

  close(): void {
    this.socket?.destroy();
    this.#server.close();
  }
}

let directory: string;
const open: { close(): void }[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'qmp-'));
});
afterEach(async () => {
  for (const item of open.splice(0)) item.close();
  await rm(directory, { recursive: true });
});

async function connected(
  answer: (command: Command, socket: Socket) => void,
): Promise<{ qemu: FakeQemu; client: QmpClient }> {
  const qemu = new FakeQemu(join(directory, 'qmp'), answer);
  await qemu.listen();
  const client = await QmpClient.connect(qemu.path, 2_000);
  open.push(client, qemu);
  return { qemu, client };
}

describe('QmpClient', () => {
  it('reads the version and leaves negotiation before anything else', async () => {
    const { qemu, client } = await connected(() => undefined);
    expect(client.version).toBe('10.0.13');
    expect(qemu.commands.map((command) => command.execute)).toEqual(['qmp_capabilities']);
  });

  it('waits for a socket that does not listen yet', async () => {
    const qemu = new FakeQemu(join(directory, 'qmp'), () => undefined);
    const connecting = QmpClient.connect(qemu.path, 2_000);
    await new Promise((resolve) => setTimeout(resolve, 60));
    await qemu.listen();
    open.push(qemu, await connecting);
    expect((await connecting).version).toBe('10.0.13');
  });

  it('says when nobody ever listens', async () => {
    await expect(QmpClient.connect(join(directory, 'none'), 50)).rejects.toBeInstanceOf(QmpClosedError);
  });

  it('matches overlapping answers by id', async () => {
    const waiting: Command[] = [];
    const { client } = await connected((command, socket) => {
      waiting.push(command);
      if (waiting.length < 2) return;
      for (const { id, execute } of waiting.reverse())
        socket.write(`{"return": {"of": "${execute}"}, "id": ${id}}\n`);
    });
    expect(await Promise.all([client.execute('a'), client.execute('b')])).toEqual([{ of: 'a' }, { of: 'b' }]);
  });

  it("throws QEMU's error with its class and description", async () => {
    const { client } = await connected(({ id }, socket) => {
      socket.write(`{"id": ${id}, "error": {"class": "GenericError", "desc": "no such thing"}}\n`);
    });
    await expect(client.execute('x')).rejects.toMatchObject({
      code: 'NASMIG_QMP_COMMAND',
      command: 'x',
      qemuClass: 'GenericError',
      description: 'no such thing',
    });
    await expect(client.execute('x')).rejects.toBeInstanceOf(QmpCommandError);
  });

  it('times out a command, and ignores its late answer', async () => {
    const { client } = await connected((command, socket) => {
      const delayMs = command.execute === 'slow' ? 60 : 0;
      setTimeout(() => socket.write(`{"return": "${command.execute}", "id": ${command.id}}\n`), delayMs);
    });
    await expect(client.execute('slow', undefined, 20)).rejects.toBeInstanceOf(QmpTimeoutError);
    await new Promise((resolve) => setTimeout(resolve, 80));
    expect(await client.execute('fast')).toBe('fast');
  });

  it('keeps events with their time, for those who ask later and those who wait', async () => {
    const { qemu, client } = await connected(() => undefined);
    const waiting = client.waitForEvent((event) => event.name === 'RESUME', 1_000);
    qemu.socket?.write(
      '{"timestamp": {"seconds": 5, "microseconds": 250000}, "event": "STOP"}\n{"timestamp": ',
    );
    qemu.socket?.write('{"seconds": 6, "microseconds": 1}, "event": "RESUME", "data": {"a": 1}}\n');
    expect(await waiting).toEqual({ name: 'RESUME', data: { a: 1 }, timestampMs: 6000.001 });
    const stop = await client.waitForEvent((event) => event.name === 'STOP', 1_000);
    expect(stop.timestampMs).toBe(5250);
    await expect(client.waitForEvent((event) => event.name === 'STOP', 20, 1)).rejects.toBeInstanceOf(
      QmpTimeoutError,
    );
  });

  it('ends commands and waiters when QEMU goes', async () => {
    const { qemu, client } = await connected(() => undefined);
    const command = client.execute('x');
    const event = client.waitForEvent(() => true, 1_000);
    qemu.socket?.destroy();
    await expect(command).rejects.toBeInstanceOf(QmpClosedError);
    await expect(event).rejects.toBeInstanceOf(QmpClosedError);
    await expect(client.execute('y')).rejects.toBeInstanceOf(QmpClosedError);
    expect(client.closed).toBe(true);
  });

  it.each(['hello\n', '{"QMP": {}}\n'])('refuses the greeting %j', async (greeting) => {
    const qemu = new FakeQemu(join(directory, 'qmp'), () => undefined, greeting);
    open.push(qemu);
    await qemu.listen();
    await expect(QmpClient.connect(qemu.path, 1_000)).rejects.toBeInstanceOf(QmpProtocolError);
  });

  it('ends the connection on a line that is no JSON', async () => {
    const { client } = await connected((_command, socket) => socket.write('nonsense\n'));
    await expect(client.execute('x')).rejects.toBeInstanceOf(QmpProtocolError);
  });
});
