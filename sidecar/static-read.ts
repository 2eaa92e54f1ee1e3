// Reads a socket into one buffer that is used again and again. Node's 'data' events bring a new buffer of 64 KiB for every read: at
// a GiB of guest memory that is 16,000 of them, and collecting them costs more than all else that is done with the stream.
// For an accepted socket Node has this only by moving its handle into a new Socket, which its documentation does not describe; where
// that is not possible any more, 'data' events serve as well, only slower (docs/adr/0006).

import { Socket, type SocketConstructorOpts } from 'node:net';

/** What libuv asks the kernel for at once; a unix socket holds about 208 KiB. */
const READ_BYTES = 256 * 1024;

type WithHandle = { _handle?: unknown };

/** The bytes that a paused socket has read already; `read` gives them one piece at a time. */
export function* bufferedIn(socket: Socket): Generator<Buffer> {
  for (let bytes = socket.read(); bytes !== null; bytes = socket.read()) yield bytes as Buffer;
}

/**
 * Goes on with an accepted socket that is paused and has no 'data' listener any more, after {@link bufferedIn}. `onBytes` gets views that die with the call.
 * The socket that is returned is paused, and takes the place of `accepted`, whose listeners stay behind.
 */
export function readInPlace(accepted: Socket, onBytes: (bytes: Buffer) => void): Socket {
  const holder = accepted as unknown as WithHandle;
  const handle = holder._handle;
  const movable = handle !== undefined && handle !== null && !accepted.destroyed && !accepted.readableEnded;
  // Bytes that stay behind would be lost.
  if (!movable || accepted.readableLength > 0 || accepted.writableLength > 0) {
    accepted.on('data', onBytes);
    accepted.pause();
    return accepted;
  }
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  holder._handle = null;
  const options = {
    handle,
    allowHalfOpen: true,
    pauseOnCreate: true,
    onread: {
      buffer,
      callback: (count: number) => {
        onBytes(buffer.subarray(0, count));
        return true;
      },
    },
  };
  const socket = new Socket(options as unknown as SocketConstructorOpts);
  // The server counts its connections by the sockets that it made.
  socket.once('close', () => accepted.destroy());
  return socket;
}
