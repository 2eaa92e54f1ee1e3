// The part of the end-to-end suites that `make test` runs: the custom resources and the operator on a real API server,
// and one migration of a real VM under it.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    include: ['crds/crds.e2e.test.ts', 'operator/operator.e2e.test.ts', 'test/cluster/migration.e2e.test.ts'],
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 180_000,
  },
});
