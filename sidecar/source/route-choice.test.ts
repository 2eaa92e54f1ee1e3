import { describe, expect, it } from 'vitest';
import { type Route, RouteChoice } from './route-choice.ts';

const MB = 1e6;

/** Plays a migration in steps of 20 ms: what each way delivers, in MB/s, and what is known of the link. */
function play(options: {
  readonly references: number;
  readonly literals: number;
  readonly seconds: number;
  /** MB/s, from when on in ms. */
  readonly link?: (nowMs: number, route: Route) => number;
  readonly linkIdle?: (nowMs: number) => boolean;
  readonly indexAwaited?: (nowMs: number) => boolean;
  /** Nothing is delivered, and nothing observed, at these times. */
  readonly stalled?: (nowMs: number) => boolean;
  readonly mayTry?: (nowMs: number) => boolean;
}) {
  const choice = new RouteChoice();
  const ways: Record<Route, number> = { references: 0, literals: 0 };
  const changes: [number, Route][] = [];
  let deliveredBytes = 1;
  for (let nowMs = 0; nowMs < options.seconds * 1000; nowMs += 20) {
    if (nowMs > 0 && options.stalled?.(nowMs) === true) continue;
    const rate = choice.route === 'references' ? options.references : options.literals;
    deliveredBytes += (rate * MB) / 50;
    ways[choice.route] += 20;
    const changed = choice.observe({
      nowMs,
      deliveredBytes,
      busyLinkBytesPerSecond: (options.link?.(nowMs, choice.route) ?? 0) * MB,
      linkIdle: options.linkIdle?.(nowMs) ?? true,
      indexAwaited: options.indexAwaited?.(nowMs) ?? false,
      mayTry: options.mayTry?.(nowMs) ?? true,
    });
    if (changed !== undefined) changes.push([nowMs, changed]);
  }
  return { ways, changes, isPlainFaster: choice.isPlainFaster };
}

describe('RouteChoice', () => {
  it('leaves pages as they are on a link that carries them faster', () => {
    const { ways, changes } = play({ references: 80, literals: 400, seconds: 9 });
    expect(changes).toEqual([[2300, 'literals']]);
    expect(ways.references).toBe(1520);
  });

  it('says that plain would be faster where pages as they are are, or where the link never limits', () => {
    const way = { references: 80, seconds: 9 };
    expect(play({ ...way, literals: 400 }).isPlainFaster).toBe(true);
    expect(play({ ...way, literals: 70 }).isPlainFaster).toBe(true);
    // The link was waited for, and brought less.
    const linkIdle = (nowMs: number) => nowMs < 1700;
    expect(play({ ...way, literals: 70, linkIdle }).isPlainFaster).toBe(false);
    expect(
      play({ ...way, literals: 25, link: (_, route) => (route === 'literals' ? 25 : 0) }).isPlainFaster,
    ).toBe(false);
    // Never tried, or broken off.
    expect(play({ ...way, literals: 400, mayTry: () => false }).isPlainFaster).toBe(false);
    expect(play({ ...way, literals: 400, mayTry: (nowMs) => nowMs < 1600 }).isPlainFaster).toBe(false);
  });

  it('keeps to references after a trial that brought less', () => {
    const { ways, changes } = play({ references: 80, literals: 85, seconds: 9 });
    expect(changes).toEqual([]);
    expect(ways.literals).toBeLessThanOrEqual(820);
  });

  it('never tries a link that is known to be the slower way', () => {
    const { ways } = play({ references: 80, literals: 25, seconds: 60, link: () => 25 });
    expect(ways.literals).toBe(0);
  });

  it('tries nothing while the link is what is waited for, now and then', () => {
    const linkIdle = (nowMs: number) => nowMs % 900 > 100;
    const { ways } = play({ references: 30, literals: 400, seconds: 20, linkIdle });
    expect(ways.literals).toBe(0);
  });

  it('takes a wait for the index for no slowness of references', () => {
    const { ways } = play({
      references: 150,
      literals: 25,
      seconds: 12,
      link: (nowMs, route) => (route === 'literals' || nowMs > 3500 ? 25 : 0),
      stalled: (nowMs) => nowMs < 3000,
      indexAwaited: (nowMs) => nowMs <= 3000,
    });
    expect(ways.literals).toBeLessThanOrEqual(200);
  });

  it('leaves literals as soon as the link shows that references were faster', () => {
    const { changes } = play({
      references: 80,
      literals: 400,
      seconds: 9,
      link: (nowMs) => (nowMs > 4000 ? 25 : 0),
    });
    expect(changes).toEqual([
      [2300, 'literals'],
      [4020, 'references'],
    ]);
  });

  it('ends a trial as soon as the link turns out to be the slower way', () => {
    const link = (nowMs: number, route: Route) => (route === 'literals' || nowMs > 1700 ? 25 : 0);
    const { ways } = play({ references: 80, literals: 25, seconds: 60, link });
    expect(ways.literals).toBeLessThanOrEqual(40);
  });

  it('tries nothing near the end, and breaks off a trial that came too late', () => {
    const { ways } = play({ references: 80, literals: 400, seconds: 9, mayTry: () => false });
    expect(ways.literals).toBe(0);
    const cut = play({ references: 80, literals: 80, seconds: 9, mayTry: (nowMs) => nowMs < 1600 });
    expect(cut.ways.literals).toBeLessThanOrEqual(120);
  });

  it('asks again after a while', () => {
    const { changes } = play({ references: 80, literals: 400, seconds: 20 });
    expect(changes.map(([, route]) => route)).toEqual(['literals', 'references', 'literals']);
  });
});
