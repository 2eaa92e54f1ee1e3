import { expect, it } from 'vitest';
import { z } from 'zod';
import { checked } from './checked.ts';

const schema = z.object({ name: z.string().max(3) });

it('gives what fits, and says what does not', () => {
  expect(checked(schema, { name: 'abc' })).toEqual({ success: true, data: { name: 'abc' } });
  expect(checked(schema, { name: 'abcd' }).error?.issues[0]?.path).toEqual(['name']);
});

it('refuses a value at which the schema itself throws', () => {
  const value = { name: { length: { toString: 1 } } };
  expect(() => schema.safeParse(value)).toThrow(TypeError);
  expect(checked(schema, value).error?.issues[0]?.message).toBe('Cannot convert object to primitive value');
});
