// Passes counted on made-up orders of pages, and on whole made-up migrations whose passes are known.

import { describe, expect, it } from 'vitest';
import { PassCounter } from './pass-counter.ts';

const numbers = (...pages: number[]): [Uint32Array, number] => [Uint32Array.from(pages), pages.length];

describe('passes', () => {
  it('are none before the first page, whatever is marked', () => {
    const counter = new PassCounter();
    expect(counter.passes).toBe(0);
    counter.channel().flush();
    counter.channel().sync();
    expect(counter.passes).toBe(0);
  });

  it('are told by addresses that begin anew where nothing is marked', () => {
    const counter = new PassCounter();
    const main = counter.channel();
    main.pages(0, ...numbers(1, 2, 7));
    main.pages(1, ...numbers(0));
    main.pages(1, ...numbers(3));
    expect(counter.passes).toBe(1);
    main.pages(0, ...numbers(7));
    expect(counter.passes).toBe(2);
    main.pages(0, ...numbers(7));
    expect(counter.passes).toBe(3);
    // The race of QEMU 7.2 on its list of pages.
    main.pages(0, ...numbers(7, 8, 9));
    expect(counter.passes).toBe(3);
  });

  it('are those of the channel that saw the most where every section is marked', () => {
    const counter = new PassCounter();
    const channels = [counter.channel(), counter.channel()];
    for (const page of [0, 10, 20])
      for (const channel of channels) {
        channel.pages(0, ...numbers(page, page + 1));
        channel.sync();
      }
    expect(counter.passes).toBe(1);
    channels[1]?.pages(0, ...numbers(3));
    expect(counter.passes).toBe(2);
  });

  it('are counted by marks, whichever channel is read first', () => {
    const counter = new PassCounter();
    const main = counter.channel();
    const channels = [counter.channel(), counter.channel()];
    // The marks of the setup, then three passes of which main is read to its end before any channel.
    for (let mark = 0; mark < 5; mark += 1) main.flush();
    for (const [at, channel] of channels.entries()) {
      channel.sync();
      for (let pass = 0; pass < 3; pass += 1) {
        // The last pass has one packet, on one channel.
        if (pass < 2 || at === 1) channel.pages(0, ...numbers(9, 1));
        if (pass === 0) channel.pages(0, ...numbers(5));
        channel.sync();
      }
    }
    expect(counter.passes).toBe(3);
  });

  it('without a page do not count', () => {
    const counter = new PassCounter();
    const main = counter.channel();
    main.flush();
    main.pages(0, ...numbers(1));
    for (let mark = 0; mark < 10; mark += 1) main.flush();
    main.pages(0, ...numbers(1));
    main.flush();
    expect(counter.passes).toBe(2);
  });

  it('are bounded', () => {
    const counter = new PassCounter();
    const main = counter.channel();
    for (let pass = 0; pass < 70_000; pass += 1) {
      main.pages(0, ...numbers(1));
      main.flush();
    }
    expect(counter.passes).toBe(65_536);
  });
});
