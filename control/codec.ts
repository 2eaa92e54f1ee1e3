// Text of a WebSocket message to a checked message and back. A message is bounded before it is parsed, and nothing that
// broke its schema gets any further. Errors name the field, never repeat its value (a session key must not be logged).

import type { z } from 'zod';
import { checked } from './checked.ts';
import { ControlMessageError, ControlMessageTooLargeError } from './errors.ts';
import { MAX_MESSAGE_BYTES } from './limits.ts';
import { type HubMessage, hubMessageSchema, type SidecarMessage, sidecarMessageSchema } from './messages.ts';

type Direction = ControlMessageError['direction'];

/** One text message of a sidecar. Throws {@link ControlMessageError} or {@link ControlMessageTooLargeError}. */
export function decodeSidecarMessage(data: Buffer | string): SidecarMessage {
  return decode(sidecarMessageSchema, data, 'sidecar-to-hub');
}

/** One text message of the hub. Throws {@link ControlMessageError} or {@link ControlMessageTooLargeError}. */
export function decodeHubMessage(data: Buffer | string): HubMessage {
  return decode(hubMessageSchema, data, 'hub-to-sidecar');
}

/** Checks and encodes a message to the hub: our own mistakes must not close the connection at the other end. */
export function encodeSidecarMessage(message: SidecarMessage): string {
  return encode(sidecarMessageSchema, message, 'sidecar-to-hub');
}

/** Checks and encodes a message to a sidecar. */
export function encodeHubMessage(message: HubMessage): string {
  return encode(hubMessageSchema, message, 'hub-to-sidecar');
}

function decode<T>(schema: z.ZodType<T>, data: Buffer | string, direction: Direction): T {
  const bytes = typeof data === 'string' ? Buffer.byteLength(data) : data.length;
  if (bytes > MAX_MESSAGE_BYTES) throw new ControlMessageTooLargeError(bytes, MAX_MESSAGE_BYTES);
  let value: unknown;
  try {
    value = JSON.parse(typeof data === 'string' ? data : data.toString('utf8'));
  } catch {
    throw new ControlMessageError(direction, 'not JSON');
  }
  return check(schema, value, direction);
}

function encode<T>(schema: z.ZodType<T>, message: T, direction: Direction): string {
  const encoded = JSON.stringify(check(schema, message, direction));
  const bytes = Buffer.byteLength(encoded);
  if (bytes > MAX_MESSAGE_BYTES) throw new ControlMessageTooLargeError(bytes, MAX_MESSAGE_BYTES);
  return encoded;
}

function check<T>(schema: z.ZodType<T>, value: unknown, direction: Direction): T {
  const parsed = checked(schema, value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const path = issue?.path.map(String).join('.').slice(0, 100) ?? '';
  throw new ControlMessageError(direction, `${path === '' ? 'message' : path}: ${issue?.code ?? 'invalid'}`);
}
