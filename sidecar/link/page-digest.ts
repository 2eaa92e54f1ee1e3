// Digests of pages in RESEND: the target says what it has, the source finds which pages differ. XXH64 with a seed of this
// connection alone; a hint that saves sending equal pages again, while the tag of the PATCH decides.
// Layout: docs/link-protocol.md, "RESEND".
import type { ResendFields } from './frame-types.ts';
import { LinkBadResendError, LinkMisuseError } from './link-errors.ts';

/** XXH64 of the 4096 bytes at `offset`, as two signed halves; see PageHasher of the index, seeded with `digestSeed`. */
export interface PageDigester {
  hash(bytes: Uint8Array, offset: number): void;
  /** Upper half of the last hash. */
  readonly hi: number;
  /** Lower half of the last hash. */
  readonly lo: number;
}

const DIGEST_BYTES = 8;

/** Whether the target says in RESEND that it has nothing for the page. */
export function isMissing(missing: Uint8Array, page: number): boolean {
  return ((missing[page >> 3] as number) & (1 << (page & 7))) !== 0;
}

/** Target: writes the digests of all pages to `out` (8 bytes a page), zero where the bitmap `missing` says not read. */
export function digestPages(
  digester: PageDigester,
  bytes: Uint8Array,
  pageOffsets: Uint32Array,
  pageCount: number,
  missing: Uint8Array,
  out: Buffer,
): void {
  if (out.length < pageCount * DIGEST_BYTES || missing.length * 8 < pageCount) {
    throw new LinkMisuseError(`digests of ${pageCount} pages with ${out.length} and ${missing.length} bytes`);
  }
  for (let page = 0; page < pageCount; page++) {
    const at = page * DIGEST_BYTES;
    if (isMissing(missing, page)) {
      out.fill(0, at, at + DIGEST_BYTES);
      continue;
    }
    digester.hash(bytes, pageOffsets[page] as number);
    out.writeInt32BE(digester.hi, at);
    out.writeInt32BE(digester.lo, at + 4);
  }
}

/**
 * Source: which pages of the kept batch the target lacks or has differently; their positions go to `out`, ascending, and
 * how many is returned. None is a possible answer: two pages with one digest. Throws LinkBadResendError when the RESEND
 * counts other pages than the batch has.
 */
export function differingPages(
  digester: PageDigester,
  bytes: Uint8Array,
  pageOffsets: Uint32Array,
  pageCount: number,
  resend: ResendFields,
  out: Uint32Array,
): number {
  if (resend.pageCount !== pageCount) {
    throw new LinkBadResendError(
      resend.number,
      `it counts ${resend.pageCount} pages, the batch has ${pageCount}`,
    );
  }
  const digests = new DataView(resend.digests.buffer, resend.digests.byteOffset, resend.digests.byteLength);
  let count = 0;
  for (let page = 0; page < pageCount; page++) {
    if (!isMissing(resend.missing, page)) {
      digester.hash(bytes, pageOffsets[page] as number);
      const at = page * DIGEST_BYTES;
      if (digests.getInt32(at) === digester.hi && digests.getInt32(at + 4) === digester.lo) continue;
    }
    out[count++] = page;
  }
  return count;
}
