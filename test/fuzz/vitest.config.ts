// The bounded part of the fuzzing: every parser for a fixed number of inputs, and every planted bug. `make fuzz` is the long one.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/fuzz/**/*.fuzz.test.ts'],
    maxWorkers: 2,
    testTimeout: 120_000,
  },
});
