// Tells connected sidecars what the policy of their VM says of their index: after HELLO, and again when a policy changed. A sidecar
// that does not know the message gets none: it goes by what its container was given when the pod was made.
import { type Configure, laterHubMessages } from '../../control/messages.ts';
import type { Policy } from '../controller/policies.ts';
import { parseQuantity } from '../kubevirt/quantities.ts';
import type { PodIdentity } from './authenticator.ts';
import type { Session } from './hub.ts';

/** Policies are often changed several at a time. */
const SETTLE_MS = 1000;

const builds = { Sample: 'sample', Full: 'full', Inherit: 'inherit' } as const;

/** What a policy, or its absence, says. */
export function configurationOf(policy: Policy | undefined): Configure {
  const { build = 'Sample', nasReadBandwidth } = policy?.spec.index ?? {};
  const bandwidth = parseQuantity(nasReadBandwidth);
  return {
    type: 'configure',
    index: {
      build: builds[build],
      ...(bandwidth === undefined ? {} : { nasReadBytesPerSecond: Math.max(1, Math.floor(bandwidth)) }),
    },
  };
}

export class SidecarConfiguration {
  readonly #policyOf: (identity: PodIdentity) => Policy | undefined;
  /** Sessions by pod UID, with what they were told last. */
  readonly #told = new Map<string, { session: Session; text: string }>();
  #timer: NodeJS.Timeout | undefined;

  constructor(policyOf: (identity: PodIdentity) => Policy | undefined) {
    this.#policyOf = policyOf;
  }

  connected(session: Session): void {
    if (session.hello.accepts?.includes(laterHubMessages[0]) !== true) return;
    this.#told.set(session.identity.podUid, { session, text: '' });
    this.#tell(session.identity.podUid);
  }

  ended(session: Session): void {
    const { podUid } = session.identity;
    if (this.#told.get(podUid)?.session === session) this.#told.delete(podUid);
  }

  /** A policy, or what it selects by, changed. */
  policiesChanged(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      for (const podUid of this.#told.keys()) this.#tell(podUid);
    }, SETTLE_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#told.clear();
  }

  #tell(podUid: string): void {
    const told = this.#told.get(podUid);
    if (told === undefined) return;
    const message = configurationOf(this.#policyOf(told.session.identity));
    const text = JSON.stringify(message);
    if (text !== told.text && told.session.send(message)) told.text = text;
  }
}
