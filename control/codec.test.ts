import { describe, expect, it } from 'vitest';
import { decodeHubMessage, decodeSidecarMessage, encodeHubMessage, encodeSidecarMessage } from './codec.ts';
import { ControlMessageError, ControlMessageTooLargeError } from './errors.ts';
import { exampleArm, exampleHello, exampleHubMessages, exampleSidecarMessages } from './example-messages.ts';
import { MAX_MESSAGE_BYTES, MAX_VOLUMES } from './limits.ts';

describe('control message codec', () => {
  it.each(exampleSidecarMessages.map((message) => [message.type, message] as const))(
    'carries %s to the hub unchanged',
    (_type, message) => {
      expect(decodeSidecarMessage(Buffer.from(encodeSidecarMessage(message)))).toEqual(message);
    },
  );

  it.each(exampleHubMessages.map((message) => [message.type, message] as const))(
    'carries %s to a sidecar unchanged',
    (_type, message) => {
      expect(decodeHubMessage(encodeHubMessage(message))).toEqual(message);
    },
  );

  it('drops fields of later releases', () => {
    expect(decodeHubMessage(JSON.stringify({ ...exampleArm, later: { x: 1 } }))).toEqual(exampleArm);
  });

  it.each([
    ['not JSON', '{'],
    ['no type', '{}'],
    ['an unknown type', '{"type":"reboot"}'],
    ['the other direction', JSON.stringify(exampleArm)],
    [
      'a name that is not one',
      JSON.stringify({ ...exampleHello, vmi: { name: '../x', uid: exampleHello.vmi.uid } }),
    ],
    ['a negative count', JSON.stringify({ ...exampleHello, index: { ...exampleHello.index, blocks: -1 } })],
    [
      'a fraction of a byte',
      JSON.stringify({ ...exampleHello, index: { ...exampleHello.index, bytes: 0.5 } }),
    ],
    ['link versions the wrong way round', JSON.stringify({ ...exampleHello, link: { min: 2, max: 1 } })],
    [
      'too many volumes',
      JSON.stringify({ ...exampleHello, volumes: Array(MAX_VOLUMES + 1).fill(exampleHello.volumes[0]) }),
    ],
  ])('refuses %s', (_what, text) => {
    expect(() => decodeSidecarMessage(text)).toThrow(ControlMessageError);
  });

  it('refuses a session key that is not 32 bytes, and never repeats it', () => {
    const sessionKey = Buffer.alloc(31, 0x61).toString('base64');
    const decode = () => decodeHubMessage(JSON.stringify({ ...exampleArm, sessionKey }));
    expect(decode).toThrow(ControlMessageError);
    expect(decode).not.toThrow(sessionKey);
    expect(decode).toThrow(/sessionKey/);
  });

  it('refuses a long message before it is parsed', () => {
    expect(() => decodeSidecarMessage(Buffer.alloc(MAX_MESSAGE_BYTES + 1, 0x20))).toThrow(
      ControlMessageTooLargeError,
    );
  });

  it('refuses to send what the other side would refuse', () => {
    expect(() => encodeSidecarMessage({ ...exampleHello, release: '' })).toThrow(ControlMessageError);
  });
});
