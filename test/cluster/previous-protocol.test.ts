import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { expect, it } from 'vitest';
import { withoutLaterMessages } from './previous-protocol.ts';

it('finds in control/messages.ts what an older release did not have', async () => {
  const now = await readFile(resolve(import.meta.dirname, '../../control/messages.ts'), 'utf8');
  const then = withoutLaterMessages(now);
  expect(then).toContain('export const laterHubMessages = [] as const;');
  expect(then).toMatch(/hubMessageSchema = [^[]*\[\s*welcomeSchema,\s*armSchema,\s*goSchema,/);
});

it('says so when there is nothing to take out', () => {
  expect(() => withoutLaterMessages('export const laterHubMessages = [] as const;')).toThrow(
    'adapt this file',
  );
});
