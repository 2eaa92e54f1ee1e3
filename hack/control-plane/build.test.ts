import { describe, expect, it } from 'vitest';
import { generateGoMod, stagingModules, versionFlags } from './build.ts';

const goMod = `module k8s.io/kubernetes

go 1.26.0

require k8s.io/api v0.0.0

replace (
	k8s.io/api => ./staging/src/k8s.io/api
	k8s.io/component-base => ./staging/src/k8s.io/component-base
	example.org/other => ./other
)
`;

describe('generated go.mod', () => {
  it('replaces each staging module by its published version', () => {
    expect(stagingModules(goMod)).toEqual(['k8s.io/api', 'k8s.io/component-base']);
    expect(generateGoMod('v1.37.2', goMod)).toBe(`module control-plane

go 1.26.0

require k8s.io/kubernetes v1.37.2

replace (
	k8s.io/api => k8s.io/api v0.37.2
	k8s.io/component-base => k8s.io/component-base v0.37.2
)
`);
  });

  it('names the release in both version packages', () => {
    expect(versionFlags('v1.37.2')).toContain('-X k8s.io/component-base/version.gitVersion=v1.37.2');
    expect(versionFlags('v1.37.2')).toContain('-X k8s.io/client-go/pkg/version.gitMinor=37');
  });
});
