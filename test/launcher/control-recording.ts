// Keeps what sidecars and hub say to each other in the lab, for the fuzzer's corpus: with NASMIG_CONTROL_RECORDING=DIR each
// message becomes a line of DIR/control-from-sidecar.jsonl or DIR/control-from-hub.jsonl. `node test/fuzz/record-corpus.ts --control DIR`
// makes the corpus of them.

import { appendFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { encodeHubMessage, encodeSidecarMessage } from '../../control/codec.ts';
import type { HubListener, Session } from '../../operator/hub/hub.ts';

/** `listener`, and a recording of all that it hears and says when `directory` is given. WELCOME is said before it hears anything. */
export function recordControl(
  listener: HubListener,
  directory: string | undefined = process.env['NASMIG_CONTROL_RECORDING'],
): HubListener {
  if (directory === undefined) return listener;
  mkdirSync(directory, { recursive: true });
  const note = (from: 'sidecar' | 'hub', message: string): void =>
    appendFileSync(join(directory, `control-from-${from}.jsonl`), `${message}\n`);
  return {
    onSession: (session: Session) => {
      note('sidecar', encodeSidecarMessage(session.hello));
      const send = session.send.bind(session);
      session.send = (message) => {
        note('hub', encodeHubMessage(message));
        return send(message);
      };
      listener.onSession(session);
    },
    onMessage: (session, message) => {
      note('sidecar', encodeSidecarMessage(message));
      listener.onMessage(session, message);
    },
    onSessionEnded: (session) => listener.onSessionEnded(session),
  };
}
