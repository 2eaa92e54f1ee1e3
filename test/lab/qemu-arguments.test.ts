import { describe, expect, it } from 'vitest';
import { guestMemoryKib } from './odd-memory.ts';
import { type QemuGuestOptions, qemuArguments } from './qemu-arguments.ts';

const BASE: QemuGuestOptions = {
  kernelPath: '/g/vmlinuz',
  initrdPath: '/g/initrd',
  kernelArguments: ['nasmig.read=1'],
  memoryKib: 65_536,
  diskPath: '/nas/disk.img',
  networkSocketPath: '/r/net',
  qmpSocketPath: '/r/qmp',
  serialLogPath: '/r/serial',
  start: { kind: 'boot' },
};

function argument(args: string[], option: string): string | undefined {
  const index = args.indexOf(option);
  return index < 0 ? undefined : args[index + 1];
}

describe('qemuArguments', () => {
  it('emulates by default, with one CPU and no default devices', () => {
    const args = qemuArguments(BASE);
    expect(argument(args, '-accel')).toBe('tcg,thread=single');
    expect(argument(args, '-cpu')).toBe('qemu64');
    expect(argument(args, '-machine')).toBe('q35');
    expect(argument(args, '-m')).toBe('65536k');
    expect(args).toContain('-nodefaults');
    expect(argument(args, '-append')).toMatch(/console=ttyS0 .*nasmig\.read=1$/);
  });

  it('differs between the sides of a migration only by how QEMU starts', () => {
    const source = qemuArguments({ ...BASE, start: { kind: 'state', path: '/g/state', savedBy: '10.0.13' } });
    const target = qemuArguments({ ...BASE, start: { kind: 'incoming' } });
    expect(source.slice(0, -3)).toEqual(target.slice(0, -3));
    expect(source.slice(-3)).toEqual(['-S', '-incoming', 'file:/g/state']);
    expect(target.slice(-3)).toEqual(['-mem-prealloc', '-incoming', 'defer']);
    const paused = qemuArguments({ ...BASE, start: { kind: 'incoming', paused: true } });
    expect(paused.slice(-4)).toEqual(['-S', '-mem-prealloc', '-incoming', 'defer']);
  });

  it('gives the guest memory that is not a multiple of 64 pages where the QEMU needs that', () => {
    expect(guestMemoryKib('trixie', 64)).toBe(65_536);
    const kib = guestMemoryKib('bookworm', 64);
    expect((kib * 1024) % (64 * 4096)).not.toBe(0);
    expect(argument(qemuArguments({ ...BASE, memoryKib: kib }), '-m')).toBe(`${kib}k`);
  });

  it.each([
    ['7.2.22', "exec:cat '/g/state'"],
    ['8.1.0', "exec:cat '/g/state'"],
    ['8.2.0', 'file:/g/state'],
    ['11.1.3', 'file:/g/state'],
  ])('reads a state as QEMU %s can', (savedBy, uri) => {
    expect(qemuArguments({ ...BASE, start: { kind: 'state', path: '/g/state', savedBy } }).at(-1)).toBe(uri);
  });

  it('opens the disk uncached unless told otherwise, and doubles commas in its name', () => {
    const args = qemuArguments({ ...BASE, diskPath: '/a,b' });
    expect(argument(args, '-blockdev')).toBe(
      'driver=file,node-name=disk-file,filename=/a,,b,cache.direct=on',
    );
    expect(qemuArguments({ ...BASE, diskDirect: false }).join(' ')).toContain('cache.direct=off');
  });

  it('leaves out disk and network where there is none', () => {
    const text = qemuArguments({ ...BASE, diskPath: null, networkSocketPath: null }).join(' ');
    expect(text).not.toMatch(/blockdev|virtio/);
  });
});
