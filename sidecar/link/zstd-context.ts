// A zstd context that serves frame after frame. Node's own calls make one for each frame, a stream around it, and fresh memory for what
// comes out: for a few KiB that is most of the time they take. Node has no call for this, so the native handle inside its zlib streams is
// called as lib/zlib.js calls it; where that is not known to work, the caller takes Node's own calls (docs/adr/0016).
import {
  constants,
  createZstdCompress,
  createZstdDecompress,
  type ZstdCompress,
  type ZstdDecompress,
} from 'node:zlib';

/** Whose binding this was written for. One that is called in a way it does not expect ends the process, so others are not tried. */
const KNOWN_NODE_MAJOR = 26;
/** The streams' own output is not used; this is the least they take, 16 KiB the default. */
export const LEAST_CHUNK_BYTES = 64;
/** No byte count: in the results until a call has written them, which one that fails does not. */
const NOT_WRITTEN = 0xffffffff;

type ZstdStream = ZstdCompress | ZstdDecompress;

/** `stream._handle` of lib/zlib.js. */
interface NativeHandle {
  onerror: (message: string, errno: number, code: string) => void;
  writeSync(
    flush: number,
    input: Uint8Array,
    inputAt: number,
    inputBytes: number,
    output: Uint8Array,
    outputAt: number,
    outputBytes: number,
  ): void;
  close(): void;
}

interface Internals {
  readonly _handle?: NativeHandle;
  /** What is left after a call: of the output, of the input. */
  readonly _writeState?: unknown;
}

interface Native {
  readonly handle: NativeHandle;
  readonly left: Uint32Array;
  error: Error | undefined;
}

export class ZstdContext {
  readonly #createStream: () => ZstdStream;
  #native: Native | undefined;

  /** @param createStream with all parameters: createZstdCompress or createZstdDecompress. Called when a context is needed. */
  constructor(createStream: () => ZstdStream) {
    this.#createStream = createStream;
  }

  /**
   * All of `input`, which must be one frame or become one, goes into `output`; returns how many bytes came out, always fewer than there is
   * room for. Throws when zstd does, when input is left over, or when the output is full and there may be more. The next call then begins
   * with a new context.
   */
  run(input: Uint8Array, output: Uint8Array): number {
    const native = this.#native ?? open(this.#createStream());
    // Put back only when all went well, so that no frame meets what another one left.
    this.#native = undefined;
    let isClean = false;
    try {
      const { handle, left } = native;
      left.fill(NOT_WRITTEN);
      handle.writeSync(constants.ZSTD_e_end, input, 0, input.length, output, 0, output.length);
      if (native.error !== undefined) throw native.error;
      const [outputLeft = NOT_WRITTEN, inputLeft = NOT_WRITTEN] = left;
      if (outputLeft > output.length) throw new Error('zstd has not said how far it came');
      if (outputLeft === 0) throw new Error(`they are more than ${output.length - 1} bytes`);
      if (inputLeft !== 0) throw new Error(`${inputLeft} bytes follow the frame`);
      isClean = true;
      this.#native = native;
      return output.length - outputLeft;
    } finally {
      if (!isClean) native.handle.close();
    }
  }

  /** Gives its memory back; the next call begins with a new context. */
  release(): void {
    this.#native?.handle.close();
    this.#native = undefined;
  }
}

function open(stream: ZstdStream): Native {
  const { _handle: handle, _writeState: left } = stream as unknown as Internals;
  if (typeof handle?.writeSync !== 'function' || typeof handle.close !== 'function')
    throw new TypeError('no native handle in a zlib stream');
  if (!(left instanceof Uint32Array) || left.length !== 2)
    throw new TypeError('no results of a native handle in a zlib stream');
  const native: Native = { handle, left, error: undefined };
  handle.onerror = (message, _errno, code) => {
    native.error = Object.assign(new Error(message), { code });
  };
  return native;
}

let reusable: boolean | undefined;

/** Whether this Node's contexts can be used again. Found out once. */
export function canReuseContexts(): boolean {
  reusable ??= Number.parseInt(process.versions.node, 10) === KNOWN_NODE_MAJOR && goesThereAndBackTwice();
  return reusable;
}

function goesThereAndBackTwice(): boolean {
  const compress = new ZstdContext(() => createZstdCompress({ chunkSize: LEAST_CHUNK_BYTES }));
  const decompress = new ZstdContext(() => createZstdDecompress({ chunkSize: LEAST_CHUNK_BYTES }));
  try {
    return ['there and back, ', 'and once more, '].every((text) => {
      const bytes = Buffer.from(text.repeat(20));
      const frame = Buffer.alloc(bytes.length * 2);
      const back = Buffer.alloc(bytes.length + 1);
      const frameBytes = compress.run(bytes, frame);
      const backBytes = decompress.run(frame.subarray(0, frameBytes), back);
      return back.subarray(0, backBytes).equals(bytes);
    });
  } catch {
    // Whatever it is, Node's own calls are right.
    return false;
  } finally {
    compress.release();
    decompress.release();
  }
}
