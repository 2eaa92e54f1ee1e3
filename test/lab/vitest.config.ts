// The whole lab: namespaces, a NAS, QEMU and libvirt for each test. One file at a time: the tests measure, and the machine is small.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['{test,sidecar}/**/*.lab.test.ts'],
    fileParallelism: false,
    testTimeout: 180_000,
    hookTimeout: 180_000,
  },
});
