// Checks values from outside against a schema. zod compares the length of whatever has one, also where a string is asked for, and for a
// length that is an object without a usable toString that comparison throws: of a value, and not of a program's mistake.

import { z } from 'zod';

/** As the schema's own `safeParse`, and never throws. */
export function checked<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
): z.ZodSafeParseResult<z.output<Schema>> {
  try {
    return schema.safeParse(value);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const issues = new z.ZodError([{ code: 'custom', path: [], message, input: value }]);
    return { success: false, error: issues as z.ZodError<z.output<Schema>> };
  }
}
