import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ReadingTurns } from './reading-turns.ts';

class Taker {
  isReading = true;
  turns = 0;
  regulate(): void {
    this.turns += 1;
  }
}

describe('ReadingTurns', () => {
  let isPaced = false;
  let turns: ReadingTurns;
  let a: Taker;
  let b: Taker;
  let c: Taker;

  beforeEach(() => {
    vi.useFakeTimers();
    isPaced = false;
    turns = new ReadingTurns(() => isPaced);
    [a, b, c] = [new Taker(), new Taker(), new Taker()];
    expect([a, b, c].map((taker) => turns.mayRead(taker))).toEqual([true, false, false]);
  });

  afterEach(() => {
    vi.useRealTimers();
  });

  const turnsOf = (): number[] => [a, b, c].map((taker) => taker.turns);

  it('has one read at a time, and the others in the order in which they came', () => {
    turns.passOn(a);
    expect(turnsOf()).toEqual([0, 1, 0]);
    expect([c, a, b].map((taker) => turns.mayRead(taker))).toEqual([false, false, true]);
    turns.passOn(b);
    turns.passOn(c);
    expect(turnsOf()).toEqual([1, 1, 1]);
    turns.passOn(a);
    expect(turns.mayRead(b)).toBe(true);
  });

  it('has a turn back only from who has it', () => {
    turns.passOn(b);
    expect(turns.mayRead(a)).toBe(true);
    turns.passOn(a);
    expect(turnsOf()).toEqual([0, 0, 1]);
  });

  it('leaves the turn where bytes come', () => {
    for (let ms = 0; ms < 200; ms += 4) {
      turns.progressed(a);
      vi.advanceTimersByTime(4);
    }
    expect(turnsOf()).toEqual([0, 0, 0]);
  });

  it('gives the turn of one to whom nothing comes to the next, and so on', () => {
    vi.advanceTimersByTime(15);
    expect(turnsOf()).toEqual([0, 1, 0]);
    vi.advanceTimersByTime(10);
    expect(turnsOf()).toEqual([0, 1, 1]);
  });

  it('waits longer for one that credit or window hold up, and not for ever', () => {
    a.isReading = false;
    vi.advanceTimersByTime(40);
    expect(turnsOf()).toEqual([0, 0, 0]);
    vi.advanceTimersByTime(10);
    expect(turnsOf()).toEqual([0, 1, 0]);
  });

  it('takes no turn away for the pace, that holds up all', () => {
    a.isReading = false;
    isPaced = true;
    vi.advanceTimersByTime(5000);
    expect(turnsOf()).toEqual([0, 0, 0]);
    isPaced = false;
    vi.advanceTimersByTime(50);
    expect(turnsOf()).toEqual([0, 1, 0]);
  });

  it('looks after nobody once nobody waits', () => {
    for (const taker of [c, b, a]) turns.passOn(taker);
    vi.advanceTimersByTime(5);
    expect(vi.getTimerCount()).toBe(0);
  });
});
