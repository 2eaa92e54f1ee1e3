import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { exampleHello } from '../../control/example-messages.ts';
import type { Hello, HubMessage } from '../../control/messages.ts';
import { type Policy, readPolicy } from '../controller/policies.ts';
import type { Session } from './hub.ts';
import { configurationOf, SidecarConfiguration } from './sidecar-configuration.ts';

const policy = (index: object) => readPolicy({ metadata: { name: 'p' }, spec: { index } });

function sessionOf(hello: Partial<Hello> = { accepts: ['configure'] }) {
  const sent: HubMessage[] = [];
  const session: Session = {
    identity: { namespace: 'shop', podName: 'pod', podUid: 'pod-uid' },
    hello: { ...exampleHello, ...hello },
    send: (message) => sent.push(message) > 0,
    close: () => {},
  };
  return { session, sent };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe('configuration of a sidecar', () => {
  it('is what the policy says of the index, and else the defaults', () => {
    expect(configurationOf(undefined)).toEqual({ type: 'configure', index: { build: 'sample' } });
    expect(configurationOf(policy({ build: 'Full', nasReadBandwidth: '50M' }))).toEqual({
      type: 'configure',
      index: { build: 'full', nasReadBytesPerSecond: 50_000_000 },
    });
    expect(configurationOf(policy({ build: 'Inherit', nasReadBandwidth: '1m' })).index).toEqual({
      build: 'inherit',
      nasReadBytesPerSecond: 1,
    });
  });

  it('is told after HELLO, and again only when it changes', () => {
    let current: Policy | undefined = policy({ build: 'Full' });
    const configuration = new SidecarConfiguration(() => current);
    const { session, sent } = sessionOf();
    configuration.connected(session);
    expect(sent).toEqual([{ type: 'configure', index: { build: 'full' } }]);
    configuration.policiesChanged();
    vi.runAllTimers();
    expect(sent).toHaveLength(1);
    current = undefined;
    configuration.policiesChanged();
    configuration.policiesChanged();
    vi.runAllTimers();
    expect(sent).toHaveLength(2);
    expect(sent[1]).toEqual({ type: 'configure', index: { build: 'sample' } });
    configuration.ended(session);
    current = policy({ build: 'Inherit' });
    configuration.policiesChanged();
    vi.runAllTimers();
    expect(sent).toHaveLength(2);
  });

  it('is kept from a sidecar of a release that does not know the message', () => {
    const configuration = new SidecarConfiguration(() => undefined);
    for (const accepts of [undefined, [], ['something later']]) {
      const { session, sent } = sessionOf(accepts === undefined ? {} : { accepts });
      configuration.connected(session);
      expect(sent).toEqual([]);
    }
  });
});
