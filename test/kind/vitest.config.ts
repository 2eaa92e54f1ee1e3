// The end-to-end files of the lab on the cluster that `hack/kind/kind.sh up` makes. What takes a part that kind does not have (a
// sidecar of an earlier protocol) is the lab's alone, and named here.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/cluster/**/*.e2e.test.ts'],
    fileParallelism: false,
    // Guests boot and move under software emulation.
    testTimeout: 1_800_000,
    hookTimeout: 1_800_000,
    env: { NASMIG_E2E_CLUSTER: 'kind' },
  },
});
