// Property tests: fast-check over codecs and pipelines, minutes rather than seconds.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    include: ['{sidecar,operator,control,crds,hack,test}/**/*.property.test.ts'],
    maxWorkers: 2,
    testTimeout: 180_000,
  },
});
