// Bodies of the sections, other than RAM, whose length can be found out, so that pages after them are found too. QEMU's stream has
// no general length field: a section that is not here ends the search. Each skipper follows what the receiver reads; all lengths
// are bounded, nothing is kept but counters.
// Format: migration/block-dirty-bitmap.c, hw/virtio/virtio-mem.c, hw/s390x/s390-stattrib.c, hw/ppc/spapr.c, hw/vfio/migration.c.
import { u16, u32, u64 } from './big-endian.ts';

/** What a skipper says after each header: another header follows, the body is complete, or this is not such a body. */
export type BodyStep = 'more' | 'done' | 'malformed';

export interface BodySkipper {
  /** Bytes of the next header, 1 to 64. */
  need: number;
  /** Set by `take`: bytes to skip before the next header, or before the footer after `done`. */
  skip: number;
  /** Set by the last `take`: bytes of listed RAMBlocks that QEMU has no pages of, and never sends. */
  readonly unpluggedBytes?: number;
  /** Looks at the `need` bytes at `bytes[at]`. */
  take(bytes: Uint8Array, at: number): BodyStep;
}

type SectionFormat = {
  readonly matches: (idstr: string) => boolean;
  readonly isFull: boolean;
  readonly version: number;
  /** `isStart`: START (or FULL) body; otherwise a PART's or END's. */
  readonly skipper: (isStart: boolean) => BodySkipper;
};

const FORMATS: readonly SectionFormat[] = [
  {
    matches: (idstr) => idstr.endsWith('/virtio-mem-device-early'),
    isFull: true,
    version: 1,
    skipper: () => new VirtioMemEarlyBody(),
  },
  {
    matches: (idstr) => idstr === 'dirty-bitmap',
    isFull: false,
    version: 1,
    skipper: () => new DirtyBitmapBody(),
  },
  {
    matches: (idstr) => idstr === 's390-storage_attributes',
    isFull: false,
    version: 0,
    skipper: () => new StorageAttributesBody(),
  },
  {
    matches: (idstr) => idstr === 'spapr/htab',
    isFull: false,
    version: 1,
    skipper: (isStart) => new HashTableBody(isStart),
  },
  {
    matches: (idstr) => idstr.endsWith('/vfio'),
    isFull: false,
    version: 1,
    skipper: (isStart) => new VfioBody(isStart),
  },
];

/** Makes a skipper for each body of one section; undefined when the section's bodies are not known. */
export function bodySkippers(
  idstr: string,
  version: number,
  isFull: boolean,
): ((isStart: boolean) => BodySkipper) | undefined {
  const format = FORMATS.find((candidate) => candidate.isFull === isFull && candidate.matches(idstr));
  return format?.version === version ? format.skipper : undefined;
}

// virtio-mem announces its plugged blocks before the first page, since QEMU 8.0: KubeVirt's memory hotplug uses it.
class VirtioMemEarlyBody implements BodySkipper {
  need = 36; // u64 address, u64 region size, u64 block size, u32 NUMA node, u64 plugged size
  skip = 0;
  unpluggedBytes = 0;

  take(bytes: Uint8Array, at: number): BodyStep {
    const regionBytes = u64(bytes, at + 8);
    const blockBytes = u64(bytes, at + 16);
    // A block holds whole pages, a region is at most what a RAMBlock can be (2^44).
    if (regionBytes <= 0 || regionBytes > 2 ** 44 || blockBytes < 4096) return 'malformed';
    if (regionBytes % blockBytes !== 0) return 'malformed';
    const pluggedBytes = u64(bytes, at + 28);
    if (pluggedBytes < 0 || pluggedBytes > regionBytes || pluggedBytes % blockBytes !== 0) return 'malformed';
    this.unpluggedBytes = regionBytes - pluggedBytes;
    this.skip = Math.ceil(regionBytes / blockBytes / 64) * 8; // one bit a block, in 64-bit words
    return 'done';
  }
}

type DirtyBitmapState =
  | 'flags'
  | 'flags-2'
  | 'flags-4'
  | 'device-name'
  | 'bitmap-name'
  | 'start'
  | 'bits'
  | 'bits-size';

// Chunks of flags, names and bits, the last has the EOS flag. The code writes the granularity as be32, its header comment says be64.
class DirtyBitmapBody implements BodySkipper {
  static readonly EOS = 0x01;
  static readonly ZEROES = 0x02;
  static readonly BITMAP_NAME = 0x04;
  static readonly DEVICE_NAME = 0x08;
  static readonly START = 0x10;
  static readonly COMPLETE = 0x20;
  static readonly BITS = 0x40;
  static readonly EXTRA_FLAGS = 0x80;
  /** The receiver takes at most ten chunks of 1 KiB of bits at once. */
  static readonly MAX_BITS_BYTES = 10 * 1024;

  need = 1;
  skip = 0;
  #state: 'flags' | 'flags-2' | 'flags-4' | 'device-name' | 'bitmap-name' | 'start' | 'bits' | 'bits-size' =
    'flags';
  #flags = 0;

  take(bytes: Uint8Array, at: number): BodyStep {
    this.skip = 0;
    switch (this.#state) {
      case 'flags':
      case 'flags-2':
        this.#flags = bytes[at]!;
        if ((this.#flags & DirtyBitmapBody.EXTRA_FLAGS) === 0) return this.#names(true, true);
        return this.#state === 'flags' ? this.#expect('flags-2', 1) : this.#expect('flags-4', 2);
      case 'flags-4':
        this.#flags = u16(bytes, at);
        return this.#names(true, true);
      case 'device-name':
        this.skip = bytes[at]!;
        return this.#names(false, true);
      case 'bitmap-name':
        this.skip = bytes[at]!;
        return this.#names(false, false);
      case 'start':
        return this.#endOfChunk();
      case 'bits':
        return (this.#flags & DirtyBitmapBody.ZEROES) !== 0
          ? this.#endOfChunk()
          : this.#expect('bits-size', 8);
      case 'bits-size':
        this.skip = u64(bytes, at);
        if (this.skip < 0 || this.skip > DirtyBitmapBody.MAX_BITS_BYTES) return 'malformed';
        return this.#endOfChunk();
    }
  }

  #expect(state: DirtyBitmapState, need: number): BodyStep {
    this.#state = state;
    this.need = need;
    return 'more';
  }

  #names(device: boolean, bitmap: boolean): BodyStep {
    const flags = this.#flags;
    if (device && (flags & DirtyBitmapBody.DEVICE_NAME) !== 0) return this.#expect('device-name', 1);
    if (bitmap && (flags & DirtyBitmapBody.BITMAP_NAME) !== 0) return this.#expect('bitmap-name', 1);
    if ((flags & DirtyBitmapBody.START) !== 0) return this.#expect('start', 5); // u32 granularity, u8 flags
    if ((flags & DirtyBitmapBody.COMPLETE) !== 0) return this.#endOfChunk();
    if ((flags & DirtyBitmapBody.BITS) !== 0) return this.#expect('bits', 12); // u64 first sector, u32 sectors
    return this.#endOfChunk();
  }

  #endOfChunk(): BodyStep {
    return (this.#flags & DirtyBitmapBody.EOS) !== 0 ? 'done' : this.#expect('flags', 1);
  }
}

// s390x: CMMA storage attributes: u64 address with flags in the low 12 bits.
class StorageAttributesBody implements BodySkipper {
  static readonly EOS = 0x01;
  static readonly MORE = 0x02;
  static readonly DONE = 0x08;
  /** One byte a page, for blocks of pages that a RAMBlock can have. */
  static readonly MAX_BYTES = 2 ** 32;

  need = 8;
  skip = 0;
  #inCount = false;

  take(bytes: Uint8Array, at: number): BodyStep {
    this.skip = 0;
    if (this.#inCount) {
      this.#inCount = false;
      this.skip = u64(bytes, at);
      return this.skip < 0 || this.skip > StorageAttributesBody.MAX_BYTES ? 'malformed' : 'more';
    }
    switch (u32(bytes, at + 4) & 0xfff) {
      case StorageAttributesBody.EOS:
        return 'done';
      case StorageAttributesBody.DONE:
        return 'more';
      case StorageAttributesBody.MORE:
        this.#inCount = true;
        return 'more';
      default:
        return 'malformed';
    }
  }
}

// ppc64: the guest's hash page table.
class HashTableBody implements BodySkipper {
  need = 4;
  skip = 0;
  readonly #isStart: boolean;
  #inRuns = false;

  constructor(isStart: boolean) {
    this.#isStart = isStart;
  }

  take(bytes: Uint8Array, at: number): BodyStep {
    this.skip = 0;
    if (!this.#inRuns) {
      // START: the table's size. Otherwise 0 for runs, or a size, or all ones for "no table": then nothing follows.
      if (this.#isStart || u32(bytes, at) !== 0) return 'done';
      this.#inRuns = true;
      this.need = 8; // u32 index, u16 valid entries, u16 invalid entries
      return 'more';
    }
    const valid = u16(bytes, at + 4);
    if (u32(bytes, at) === 0 && valid === 0 && u16(bytes, at + 6) === 0) return 'done';
    this.skip = valid * 16; // bytes of an entry
    return 'more';
  }
}

// Migration of passed-through devices (protocol version 2, QEMU 8.1 and later): u64 tags whose high half is all ones.
class VfioBody implements BodySkipper {
  static readonly END_OF_STATE = 0xef10_0001;
  static readonly SETUP_STATE = 0xef10_0003;
  static readonly DATA_STATE = 0xef10_0004;
  static readonly INIT_DATA_SENT = 0xef10_0005;
  /** QEMU sends at most 1 MiB at a time; a larger bound costs nothing, since it is only counted. */
  static readonly MAX_DATA_BYTES = 2 ** 32;

  need = 8;
  skip = 0;
  readonly #isStart: boolean;
  #inSize = false;
  #inSetup = false;

  constructor(isStart: boolean) {
    this.#isStart = isStart;
  }

  take(bytes: Uint8Array, at: number): BodyStep {
    this.skip = 0;
    if (this.#inSize) {
      this.#inSize = false;
      this.skip = u64(bytes, at);
      return this.skip < 0 || this.skip > VfioBody.MAX_DATA_BYTES ? 'malformed' : 'more';
    }
    if (u32(bytes, at) !== 0xffff_ffff) return 'malformed';
    const tag = u32(bytes, at + 4);
    if (this.#isStart) {
      if (this.#inSetup) return tag === VfioBody.END_OF_STATE ? 'done' : 'malformed';
      this.#inSetup = tag === VfioBody.SETUP_STATE;
      return this.#inSetup ? 'more' : 'malformed';
    }
    switch (tag) {
      case VfioBody.END_OF_STATE:
      case VfioBody.INIT_DATA_SENT:
        return 'done';
      case VfioBody.DATA_STATE:
        this.#inSize = true;
        return 'more';
      default: // configuration space has no length
        return 'malformed';
    }
  }
}
