// Reads a socket to where its owner wants the bytes: one buffer that is used again and again, or a new place each time. Node's 'data'
// events bring a new buffer of 64 KiB for every read: at a GiB of guest memory that is 16,000 of them, and collecting them costs more
// than all else that is done with the stream.
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
 * @param room memory for the next read, not empty, asked for at once and after each call of `onBytes`. By default one buffer.
 */
export function readInPlace(
  accepted: Socket,
  onBytes: (bytes: Buffer) => void,
  room: () => Buffer = oneBuffer(),
): Socket {
  const holder = accepted as unknown as WithHandle;
  const handle = holder._handle;
  const movable = handle !== undefined && handle !== null && !accepted.destroyed && !accepted.readableEnded;
  // Bytes that stay behind would be lost.
  if (!movable || accepted.readableLength > 0 || accepted.writableLength > 0) {
    accepted.on('data', onBytes);
    accepted.pause();
    return accepted;
  }
  holder._handle = null;
  const options = {
    handle,
    allowHalfOpen: true,
    pauseOnCreate: true,
    onread: {
      buffer: room,
      callback: (count: number, buffer: Buffer) => {
        onBytes(buffer.subarray(0, count));
        return true;
      },
    },
  };
  const socket = new Socket(options as unknown as SocketConstructorOpts);
  // The server counts its connections by the sockets that it made.
  socket.once('close', () => accepted.destroy());
  // The first resume would begin to read a moment later, also when the socket was paused again meanwhile; so that one is here.
  socket.read(0);
  socket.pause();
  return socket;
}

/** What tells of a socket's end. */
export interface EndListeners {
  readonly end: () => void;
  readonly error: (error: Error) => void;
  readonly close: () => void;
}

export function listenForEnd(socket: Socket, { end, error, close }: EndListeners): void {
  socket.on('end', end).on('error', error).on('close', close);
}

export function moveEnds(from: Socket, to: Socket, ends: EndListeners): void {
  from.off('end', ends.end).off('error', ends.error).off('close', ends.close);
  listenForEnd(to, ends);
}

/**
 * Goes on with a socket that brings frames: whoever reads those copies what is kept, so one buffer serves. What was read already goes to
 * `onBytes` first. `ends` move with it; the socket that is returned is paused.
 */
export function readFramesInPlace(
  socket: Socket,
  onBytes: (bytes: Buffer) => void,
  ends: EndListeners,
): Socket {
  socket.pause();
  socket.removeAllListeners('data');
  for (const bytes of bufferedIn(socket)) onBytes(bytes);
  // What was read may have led to its end.
  if (socket.destroyed || socket.writableEnded) return socket;
  const moved = readInPlace(socket, onBytes);
  if (moved !== socket) moveEnds(socket, moved, ends);
  return moved;
}

function oneBuffer(): () => Buffer {
  let buffer: Buffer | undefined;
  return () => {
    buffer ??= Buffer.allocUnsafeSlow(READ_BYTES);
    return buffer;
  };
}
