import { describe, expect, it } from 'vitest';
import { NasPermits } from './nas-permits.ts';

const holder = (name: string, ...servers: string[]) => ({ uid: name, key: `shop/${name}`, servers });

function permits(limit: number) {
  const told: string[][] = [];
  return { told, permits: new NasPermits({ limit, onFree: (keys) => told.push(keys) }) };
}

describe('permits for reading the NAS', () => {
  it('are given up to the limit of each server', () => {
    const { permits: all } = permits(2);
    expect(all.take(holder('a', 'nas-1'))).toBe(true);
    expect(all.take(holder('b', 'nas-1'))).toBe(true);
    expect(all.take(holder('c', 'nas-1'))).toBe(false);
    expect(all.take(holder('d', 'nas-2'))).toBe(true);
    expect([all.inUse('nas-1'), all.inUse('nas-2'), all.heldCount, all.waitingCount]).toEqual([2, 1, 3, 1]);
  });

  it('are not counted twice for one migration, or one server of it', () => {
    const { permits: all } = permits(2);
    expect(all.take(holder('a', 'nas-1', 'nas-1'))).toBe(true);
    expect(all.take(holder('a', 'nas-1'))).toBe(true);
    expect(all.inUse('nas-1')).toBe(1);
    all.release('a');
    all.release('a');
    expect(all.inUse('nas-1')).toBe(0);
  });

  it('go to who asked first, also when somebody else asks in between', () => {
    const { permits: all, told } = permits(1);
    all.take(holder('a', 'nas-1'));
    all.take(holder('b', 'nas-1'));
    all.take(holder('c', 'nas-1'));
    all.release('a');
    expect(told).toEqual([['shop/b', 'shop/c']]);
    expect(all.take(holder('c', 'nas-1'))).toBe(false);
    expect(all.take(holder('b', 'nas-1'))).toBe(true);
    expect(all.take(holder('c', 'nas-1'))).toBe(false);
  });

  it('come free for the next when one that waits is gone', () => {
    const { permits: all, told } = permits(1);
    all.take(holder('a', 'nas-1'));
    all.take(holder('b', 'nas-1', 'nas-2'));
    expect(all.take(holder('c', 'nas-2'))).toBe(false);
    all.release('b');
    expect(told).toEqual([['shop/c']]);
    expect(all.take(holder('c', 'nas-2'))).toBe(true);
  });

  it('are all or none for a migration with volumes on two servers', () => {
    const { permits: all } = permits(1);
    all.take(holder('a', 'nas-1'));
    expect(all.take(holder('b', 'nas-1', 'nas-2'))).toBe(false);
    expect(all.inUse('nas-2')).toBe(0);
  });

  it('count what ran before, even beyond the limit', () => {
    const { permits: all } = permits(1);
    all.occupy(holder('a', 'nas-1'));
    all.occupy(holder('b', 'nas-1'));
    all.occupy(holder('b', 'nas-1'));
    expect(all.inUse('nas-1')).toBe(2);
    all.release('a');
    expect(all.take(holder('c', 'nas-1'))).toBe(false);
    all.release('b');
    expect(all.take(holder('c', 'nas-1'))).toBe(true);
  });

  it('are without limit at 0, and say what is full otherwise', () => {
    const { permits: none } = permits(0);
    for (let i = 0; i < 100; i += 1) expect(none.take(holder(`m${i}`, 'nas-1'))).toBe(true);
    const { permits: one } = permits(1);
    one.take(holder('a', 'nas-1'));
    expect(one.describe(['nas-1', 'nas-2'])).toBe('nas-1: 1 at a time');
  });
});
