// Which faults are injected, in which phase, in which order: decided by a seed alone, so that a run can be repeated. Every
// phase gets its share; most faults hit where framed batches are under way. Pure.

import { FAULTS, type Fault, PHASES, type Phase } from './expected-outcomes.ts';

export interface PlannedFault {
  readonly number: number;
  readonly fault: Fault;
  readonly phase: Phase;
  /** multifd channels; 0: one connection. */
  readonly channels: number;
  /** Where in the phase: for bulk the share of the guest's memory that the source QEMU has passed. 0 to 1. */
  readonly position: number;
}

/** The plan of `make test-lab`; docs/failure-modes.md names what is not in it. */
export const LAB_SEED = 20_261_123;
export const LAB_RUNS = 60;

/**
 * Shares of the phases, out of 12: 9 of 12 hit where batches are under way (bulk, decision, stopped), and every phase has at least
 * five runs of sixty.
 */
const PHASE_CYCLE: readonly Phase[] = [
  ...(['bulk', 'stopped', 'decision', 'bulk', 'arming', 'stopped'] as const),
  ...(['bulk', 'decision', 'end', 'stopped', 'decision', 'bulk'] as const),
];

/** A small generator with a 32-bit state (mulberry32): the same numbers on every machine. */
export class SeededRandom {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 up to, not including, 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** One of several. */
  pick<Item>(items: readonly Item[]): Item {
    const item = items[Math.floor(this.next() * items.length)];
    if (item === undefined) throw new RangeError('nothing to pick from');
    return item;
  }
}

/** An endless plan: every fault of a phase comes once, in a seeded order, before one comes again. */
export function* faultPlan(seed: number): Generator<PlannedFault, never> {
  const random = new SeededRandom(seed);
  const waiting: Record<Phase, Fault[]> = { arming: [], bulk: [], decision: [], stopped: [], end: [] };
  for (let number = 0; ; number++) {
    const phase = PHASE_CYCLE[number % PHASE_CYCLE.length] ?? 'bulk';
    if (waiting[phase].length === 0) waiting[phase] = shuffled(FAULTS, random);
    const fault = waiting[phase].pop();
    if (fault === undefined) throw new Error('unreachable: the row was just filled');
    yield { number, fault, phase, channels: random.next() < 0.5 ? 8 : 0, position: random.next() };
  }
}

/** The first `count` of the plan. */
export function firstFaults(seed: number, count: number): PlannedFault[] {
  const plan = faultPlan(seed);
  return Array.from({ length: count }, () => plan.next().value);
}

export function isPhase(text: string): text is Phase {
  return (PHASES as readonly string[]).includes(text);
}

function shuffled<Item>(items: readonly Item[], random: SeededRandom): Item[] {
  const left = [...items];
  const taken: Item[] = [];
  while (left.length > 0) taken.push(...left.splice(Math.floor(random.next() * left.length), 1));
  return taken;
}
