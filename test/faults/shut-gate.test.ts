import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { ShutFinder, ShutGate } from './shut-gate.ts';

const PONG = Buffer.from('0002000400000001', 'hex');
const SHUT = Buffer.from('0001000400000000', 'hex');

describe('SHUT on a return path', () => {
  it('is found after other messages, in any cut', () => {
    const bytes = Buffer.concat([PONG, PONG, SHUT]);
    expect(new ShutFinder().find(bytes)).toBe(2 * PONG.length);
    const finder = new ShutFinder();
    const found = [...bytes].map((byte) => finder.find(Buffer.of(byte)));
    expect(found.findIndex((offset) => offset !== undefined)).toBe(2 * PONG.length + 3);
  });

  it('is not taken for a body that looks like it', () => {
    const body = Buffer.concat([Buffer.from('00020008', 'hex'), SHUT]);
    expect(new ShutFinder().find(body)).toBeUndefined();
  });
});

describe('the gate', () => {
  it('passes everything on but SHUT, and SHUT when it is told to', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'gate-'));
    let qemuSide: Socket | undefined;
    const received: Buffer[] = [];
    const qemu = createServer((socket) => {
      qemuSide = socket;
      socket.on('data', (bytes) => received.push(bytes as Buffer));
    });
    await new Promise<void>((resolve) => qemu.listen(join(directory, 'qemu'), resolve));
    const gate = await ShutGate.start(join(directory, 'gate'), join(directory, 'qemu'));
    const source = connect(join(directory, 'gate'));
    const returned: Buffer[] = [];
    source.on('data', (bytes) => returned.push(bytes as Buffer));
    try {
      source.write('stream');
      await expect.poll(() => Buffer.concat(received).toString()).toBe('stream');
      qemuSide?.write(Buffer.concat([PONG, SHUT]));
      await gate.shutHeld;
      await expect.poll(() => Buffer.concat(returned)).toEqual(PONG);
      await sleep(50);
      expect(Buffer.concat(returned)).toEqual(PONG);
      gate.release();
      await expect.poll(() => Buffer.concat(returned)).toEqual(Buffer.concat([PONG, SHUT]));
    } finally {
      source.destroy();
      await gate.close();
      await new Promise<void>((resolve) => qemu.close(() => resolve()));
      await rm(directory, { recursive: true });
    }
  });

  it('keeps SHUT for the source also when QEMU is gone by then, with bytes unread', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'gate-'));
    let qemuSide: Socket | undefined;
    const qemu = createServer({ pauseOnConnect: true }, (socket) => {
      qemuSide = socket;
      socket.on('error', () => undefined);
    });
    await new Promise<void>((resolve) => qemu.listen(join(directory, 'qemu'), resolve));
    const gate = await ShutGate.start(join(directory, 'gate'), join(directory, 'qemu'));
    const source = connect(join(directory, 'gate'));
    const returned: Buffer[] = [];
    let ended = false;
    source.on('data', (bytes) => returned.push(bytes as Buffer));
    source.on('end', () => {
      ended = true;
    });
    try {
      source.write('never read');
      await expect.poll(() => qemuSide !== undefined).toBe(true);
      qemuSide?.write(SHUT);
      await gate.shutHeld;
      qemuSide?.destroy();
      await sleep(50);
      gate.release();
      await expect.poll(() => ended).toBe(true);
      expect(Buffer.concat(returned)).toEqual(SHUT);
    } finally {
      source.destroy();
      await gate.close();
      await new Promise<void>((resolve) => qemu.close(() => resolve()));
      await rm(directory, { recursive: true });
    }
  });
});
