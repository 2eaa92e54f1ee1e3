// Seeded XXH64 of 4 KiB pages and blocks, as two signed 32-bit halves.
// A hash is a hint, never a proof: XXH64 can be inverted by who knows the seed (the batch tag decides, see docs/link-protocol.md), so
// the index's seed is a secret of the VM's sidecars (docs/adr/0017-an-inherited-index-keeps-its-seed.md), and RESEND digests use a seed
// derived for one connection.
// The halves are signed so that V8 keeps them as small integers. With the page in the CPU's cache a hash takes about 0.32 us, of which
// 0.06 us are the copy into wasm's memory; from memory about twice as long, and a fifth less when many pages are copied at once (`hashPages`).
import { randomBytes } from 'node:crypto';
import { xxh64Wasm } from './xxh64-wasm.ts';

/** Bytes of a page of guest memory and of a block of a volume: the x86-64 page size that QEMU's stream uses. */
export const PAGE_BYTES = 4096;

/** A 64-bit seed as two signed 32-bit halves, so that it survives structured cloning and JSON. */
export interface HashSeed {
  readonly hi: number;
  readonly lo: number;
}

/** The part of the WebAssembly API used here; Node's types and TypeScript's `esnext` library leave it out. */
declare const WebAssembly: {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object) => { readonly exports: object };
};

/** What the package's module has of use here. Hashing touches no memory but the bytes that are hashed. */
interface Xxh64Exports {
  readonly mem: { readonly buffer: ArrayBuffer };
  xxh64(address: number, length: number, seed: bigint): bigint;
}

/** What is copied at once, and all the memory that the module has: larger pieces would leave the CPU's nearest caches. */
const PIECE_BYTES = 65_536;

const { mem, xxh64 } = new WebAssembly.Instance(new WebAssembly.Module(xxh64Wasm)).exports as Xxh64Exports;
const piece = new Uint8Array(mem.buffer, 0, PIECE_BYTES);

// wasm hands back a 64-bit integer as a BigInt. Storing it here and reading the halves back is the cheapest way out of it.
const result64 = new BigUint64Array(1);
const result32 = new Int32Array(result64.buffer);
// The order of the halves is the host's (s390x, where KubeVirt also runs, is big-endian).
const LO_WORD = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1 ? 0 : 1;
const HI_WORD = 1 - LO_WORD;

/** A new secret seed from the operating system's random generator. */
export function randomSeed(): HashSeed {
  return seedFromBytes(randomBytes(8));
}

/** The seed in 8 big-endian bytes (the output of HKDF, or a saved index). Throws RangeError for another length. */
export function seedFromBytes(bytes: Uint8Array): HashSeed {
  if (bytes.byteLength !== 8) throw new RangeError(`a hash seed has 8 bytes, not ${bytes.byteLength}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, 8);
  return { hi: view.getInt32(0), lo: view.getInt32(4) };
}

/** Whether two seeds give the same hashes. */
export function isSameSeed(one: HashSeed, other: HashSeed): boolean {
  return one.hi === other.hi && one.lo === other.lo;
}

/** Hashes pages with one seed. Cheap to make; one thread only. */
export class PageHasher {
  readonly seed: HashSeed;
  /** Upper 32 bits of the last hash, signed. */
  hi = 0;
  /** Lower 32 bits of the last hash, signed. */
  lo = 0;
  readonly #seed64: bigint;

  constructor(seed: HashSeed) {
    this.seed = { hi: seed.hi | 0, lo: seed.lo | 0 };
    this.#seed64 = (BigInt(seed.hi >>> 0) << 32n) | BigInt(seed.lo >>> 0);
  }

  /** XXH64 of the 4096 bytes at `offset`, into `hi` and `lo`. Throws RangeError when they are not all there. */
  hash(bytes: Uint8Array, offset: number): void {
    copyPiece(bytes, offset, offset + PAGE_BYTES);
    this.#hashAt(0);
  }

  /**
   * XXH64 of the pages that begin at the first `count` of `offsets`, into the same entries of `hi` and `lo`. For many pages that lie
   * near one another, in rising order, cheaper than one by one: they are copied together, with what lies between them.
   * Throws RangeError when they are not all there.
   */
  hashPages(bytes: Uint8Array, offsets: Uint32Array, count: number, hi: Int32Array, lo: Int32Array): void {
    for (let page = 0; page < count; ) {
      const start = offsets[page] as number;
      let last = start;
      let end = page + 1;
      for (; end < count; end++) {
        const next = offsets[end] as number;
        if (!(next >= last && next + PAGE_BYTES <= start + PIECE_BYTES)) break;
        last = next;
      }
      copyPiece(bytes, start, last + PAGE_BYTES);
      for (; page < end; page++) {
        this.#hashAt((offsets[page] as number) - start);
        hi[page] = this.hi;
        lo[page] = this.lo;
      }
    }
  }

  #hashAt(address: number): void {
    result64[0] = xxh64(address, PAGE_BYTES, this.#seed64);
    this.hi = result32[HI_WORD] as number;
    this.lo = result32[LO_WORD] as number;
  }
}

function copyPiece(bytes: Uint8Array, start: number, end: number): void {
  if (!(start >= 0) || end > bytes.byteLength) {
    throw new RangeError(`no page at offset ${end - PAGE_BYTES} of ${bytes.byteLength} bytes`);
  }
  piece.set(bytes.subarray(start, end));
}
