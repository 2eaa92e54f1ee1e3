// Preloaded by the image of an older sidecar: takes out of control/messages.ts what came after the protocol's first release, so
// that today's sidecar says HELLO as that one did and refuses what that one did not know. Fails when there is nothing to take out.

import { registerHooks } from 'node:module';

const MODULE = /\/control\/messages\.ts$/;

/** Text of the module, and what stands there instead in the older release. */
const CHANGES: readonly (readonly [now: RegExp, then: string])[] = [
  [/export const laterHubMessages = \[[^\]]+\] as const;/, 'export const laterHubMessages = [] as const;'],
  [/(export const hubMessageSchema = [^[]*\[\s*welcomeSchema,)[^\]]*?(\s*armSchema,)/, '$1$2'],
];

/** The module's text as the older release had it. Throws when a change finds nothing to change. */
export function withoutLaterMessages(text: string): string {
  return CHANGES.reduce((before, [now, then]) => {
    const after = before.replace(now, then);
    if (after === before) throw new Error(`control/messages.ts has nothing like ${now}: adapt this file`);
    return after;
  }, text);
}

registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    if (!MODULE.test(url)) return loaded;
    return { ...loaded, source: withoutLaterMessages(String(loaded.source)) };
  },
});
