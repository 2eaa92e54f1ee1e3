// The suites of what is shipped (`*.ship.test.ts`): chart, manifests, image. They run real Helm against a real API server, one file
// at a time, because each starts its own.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/ship/**/*.ship.test.ts'],
    globalSetup: 'test/ship/report.ts',
    fileParallelism: false,
    testTimeout: 60_000,
    // Building helm, when it is not cached, takes some minutes.
    hookTimeout: 1_200_000,
  },
});
