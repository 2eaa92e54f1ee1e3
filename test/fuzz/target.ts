// What the fuzzer needs to know of one parser: inputs to begin with, how to feed one, what must hold, and what the parser's
// errors look like. One file for each in targets/.

/** Small fast generator, the same numbers for the same seed. */
export type Random = () => number;

export interface FuzzTarget {
  /** Inputs to begin with: recordings of the corpus, and what the codecs write. */
  seeds(corpus: readonly Uint8Array[]): readonly Uint8Array[] | Promise<readonly Uint8Array[]>;
  /**
   * Feeds one input. Returns when the parser took or refused it, with the refusal's code; throws {@link InvariantError} when
   * something that must hold does not. Any other error is a crash.
   */
  run(input: Uint8Array): string | Promise<string>;
  /** Parts of an input where a change means most, as [from, to); all of it by default. */
  hot?(input: Uint8Array): readonly (readonly [number, number])[];
  /** Changes an input by its structure, for most of the inputs. Undefined: this input has none. */
  mutate?(input: Uint8Array, random: Random, other: Uint8Array): Uint8Array | undefined;
  /** Makes checksums, proofs and counts right again, so that what lies behind them is reached. */
  repair?(input: Uint8Array, random: Random): Uint8Array;
  /** Values besides those in the modules' source. */
  readonly dictionary?: readonly Uint8Array[];
  readonly maxInputBytes?: number;
  /** Bytes of Buffers that one input may allocate, over what it holds itself. */
  readonly maxAllocatedBytes?: number;
}

/** Something that must hold for every input does not. */
export class InvariantError extends Error {
  readonly code = 'FUZZ_INVARIANT';
  constructor(what: string) {
    super(what);
    this.name = 'InvariantError';
  }
}

export function must(holds: boolean, what: () => string): void {
  if (!holds) throw new InvariantError(what());
}

/** The code of an error that a parser may throw; anything that has none of the project's codes is thrown on as a crash. */
export function refusalOf(error: unknown): string {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') {
    if (error.code.startsWith('NASMIG_')) {
      must(
        error.message.length < 2000,
        () => `${error.message.length} characters of message in ${error.code}`,
      );
      return error.code;
    }
  }
  throw error;
}

/** A number of 32 bits from bytes: for choices that must be the same for the same input. */
export function digestOf(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < bytes.length; i += bytes.length > 4096 ? 7 : 1)
    hash = Math.imul(hash ^ (bytes[i] as number), 0x01000193);
  return (hash ^ bytes.length) >>> 0;
}

/** Mulberry32. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Pieces of `bytes` as a socket would bring them: a few large ones or many small ones, chosen by `random`. Copies. */
export function pieces(bytes: Uint8Array, random: Random): Uint8Array[] {
  const out: Uint8Array[] = [];
  const style = random();
  const longest = style < 0.2 ? 3 : style < 0.5 ? 40 : style < 0.8 ? 3000 : 70_000;
  // One byte at a time over tens of KiB would only be slow: small pieces near both ends, large ones between.
  for (let at = 0; at < bytes.length; ) {
    const near = at < 400 || bytes.length - at < 400 || random() < 0.02;
    const length = 1 + Math.floor(random() * (near ? longest : Math.max(longest, bytes.length / 16)));
    out.push(new Uint8Array(bytes.subarray(at, at + length))); // not slice: a Buffer's is a view
    at += length;
  }
  return out;
}
