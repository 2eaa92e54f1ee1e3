// Unit tests stand beside the code they test; the property suites carry `.property.test.ts` and run apart
// because they are allowed to take minutes.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['{sidecar,operator,observability,plugin,control,crds,hack,test,bench}/**/*.test.ts'],
    exclude: [
      '**/node_modules/**',
      '**/*.property.test.ts',
      '**/*.fuzz.test.ts',
      '**/*.lab.test.ts',
      '**/*.e2e.test.ts',
      '**/*.ship.test.ts',
    ],
    maxWorkers: 2,
    testTimeout: 20_000,
  },
});
