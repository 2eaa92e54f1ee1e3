// Messages of the control protocol in both directions, and the two state machines that act on them. A message is refused by name
// or is within every bound; the machines take any order of messages without throwing and never leave the table.
import {
  decodeHubMessage,
  decodeSidecarMessage,
  encodeHubMessage,
  encodeSidecarMessage,
} from '../../../control/codec.ts';
import { type Coordination, startCoordination, stepCoordination } from '../../../control/coordination.ts';
import { exampleArm, exampleHubMessages, exampleSidecarMessages } from '../../../control/example-messages.ts';
import { GO_TIMEOUT_MS, MAX_MESSAGE_BYTES } from '../../../control/limits.ts';
import type { HubMessage, SidecarMessage } from '../../../control/messages.ts';
import { reasons } from '../../../control/reasons.ts';
import { type ArmingState, idle, stepArming } from '../../../control/sidecar-arming.ts';
import { mutateJson } from '../json-mutator.ts';
import { digestOf, type FuzzTarget, must, refusalOf } from '../target.ts';

const { migrationUid, epoch, mode, sessionKey, downtimeLimitMs, volumes, limits } = exampleArm;
const plan = { migrationUid, epoch, mode, sessionKey, downtimeLimitMs, volumes, limits };
const KEY = Buffer.from(sessionKey, 'base64');

function checkRefusal(error: unknown): string {
  const code = refusalOf(error);
  must(!(error as Error).message.includes(sessionKey), () => 'the session key is in the message of an error');
  return code;
}

function checkArming(state: ArmingState): void {
  if (state.phase === 'holding')
    must(state.deadlineMs <= 1_000_000 + GO_TIMEOUT_MS, () => 'a hold is prolonged');
  if (state.phase === 'raw') must(reasons.includes(state.reason), () => `raw for ${state.reason}`);
}

/** What a sidecar does with a message of the hub, in each state that it can be in. */
function act(message: HubMessage): void {
  if (message.type !== 'arm' && message.type !== 'go' && message.type !== 'disarm') return;
  const { type: _type, ...order } = exampleArm;
  const states: ArmingState[] = [
    idle,
    { phase: 'arming', order },
    { phase: 'armed', order, go: false },
    { phase: 'holding', order, deadlineMs: 1_000_000 + GO_TIMEOUT_MS },
    { phase: 'framed', order },
    { phase: 'raw', order, reason: 'NoGo' },
  ];
  // A leader of epoch 8 has been heard of, or not.
  for (const highestEpoch of [epoch, epoch + 1])
    for (const before of states) step(before, message, highestEpoch);
}

function step(
  before: ArmingState,
  message: Extract<HubMessage, { type: 'arm' | 'go' | 'disarm' }>,
  highestEpoch: number,
): void {
  const event =
    message.type === 'arm'
      ? ({ type: 'arm', order: (({ type: _dropped, ...rest }) => rest)(message) } as const)
      : message;
  const { state, effects } = stepArming(before, event, highestEpoch);
  checkArming(state);
  if (message.epoch < highestEpoch)
    must(state === before, () => `an old ${message.type} changes what is ${before.phase}`);
  if (before.phase === 'framed') must(state.phase === 'framed', () => 'the hub takes back what is framed');
  if (effects.some((effect) => effect.type === 'startFramed'))
    must(message.type === 'go' && before.phase === 'holding', () => 'framed without GO');
  for (const effect of effects) if (effect.type === 'send') encodeSidecarMessage(effect.message);
  for (const next of [{ type: 'connection', nowMs: 1_000_000 }, { type: 'ended' }] as const)
    checkArming(stepArming(state, next, highestEpoch).state);
}

/** What the hub does with a message of a sidecar, in each state of a coordination. */
function coordinate(message: SidecarMessage): void {
  const start = startCoordination(plan);
  const told = stepCoordination(start, { type: 'connected', role: 'source' }).state;
  const both = stepCoordination(told, { type: 'connected', role: 'target' }).state;
  const states: Coordination[] = [
    start,
    told,
    both,
    { ...both, target: { phase: 'armed' } },
    { ...both, source: { phase: 'holding' } },
    { ...both, source: { phase: 'framed' }, go: true },
    { ...both, given: 'PeerRaw' },
  ];
  for (const before of states) {
    const steps =
      message.type === 'hello'
        ? message.migrations.map(({ role, phase, reason }) =>
            stepCoordination(before, {
              type: 'connected',
              role,
              phase,
              ...(reason === undefined ? {} : { reason }),
            }),
          )
        : message.type === 'progress' || message.type === 'stats'
          ? []
          : [stepCoordination(before, { type: 'message', message })];
    for (const { state, effects } of steps) {
      must(!before.go || state.go, () => 'GO is taken back');
      for (const effect of effects) {
        encodeHubMessage(effect.message);
        if (effect.message.type !== 'go') continue;
        must(!before.go && before.given === undefined, () => 'a second GO');
        must(
          effect.to === 'source' && state.target.phase === 'armed',
          () => 'GO although the target is not armed',
        );
      }
    }
  }
}

const jsonSeeds = (messages: readonly object[]): Uint8Array[] =>
  messages.map((message) => Buffer.from(JSON.stringify(message)));

function target<T extends HubMessage | SidecarMessage>(
  examples: readonly T[],
  decode: (data: Buffer | string) => T,
  encode: (message: T) => string,
  use: (message: T) => void,
): FuzzTarget {
  return {
    seeds: (corpus) => [...corpus, ...jsonSeeds(examples)],
    run: (input) => {
      let message: T;
      try {
        message = decode(Buffer.from(input));
      } catch (error) {
        return checkRefusal(error);
      }
      must(input.length <= MAX_MESSAGE_BYTES, () => `a message of ${input.length} bytes`);
      const encoded = encode(message);
      must(encode(decode(encoded)) === encoded, () => 'a message changes when it is sent on');
      must(!Object.hasOwn(message, '__proto__'), () => 'a message has a prototype of its own');
      use(message);
      return message.type;
    },
    mutate: mutateJson,
    maxInputBytes: MAX_MESSAGE_BYTES + 64,
  };
}

/** What the hub reads. */
export const controlFromSidecar = target(
  exampleSidecarMessages,
  decodeSidecarMessage,
  encodeSidecarMessage,
  coordinate,
);

/** What a sidecar reads. */
export const controlFromHub = target(exampleHubMessages, decodeHubMessage, encodeHubMessage, (message) => {
  if (message.type === 'arm') {
    must(Buffer.from(message.sessionKey, 'base64').length === KEY.length, () => 'a key of another length');
    must(digestOf(Buffer.from(message.sessionKey, 'base64')) >= 0, () => 'no key');
  }
  act(message);
});
