import { describe, expect, it } from 'vitest';
import { clusterVersionProblem, parseVersion, versionProblem } from './kubernetes-version.ts';

describe('version of Kubernetes', () => {
  it.each([
    ['1', '29'],
    ['1', '37'],
    ['1', '30+'],
    ['2', '0'],
  ])('%s.%s is new enough', (major, minor) => {
    expect(versionProblem(parseVersion({ major, minor }))).toBeUndefined();
  });

  it.each([
    ['1', '28'],
    ['1', '9+'],
  ])('%s.%s is too old, and it is said what to do', (major, minor) => {
    expect(versionProblem(parseVersion({ major, minor }))).toMatch(
      /Kubernetes 1\.\d+ has no native sidecars.*upgrade/,
    );
  });

  it('that cannot be read is no reason to inject', async () => {
    expect(versionProblem(parseVersion({}))).toContain('does not say');
    expect(parseVersion({ major: 'x', minor: '1' })).toBeUndefined();
    const api = { call: async () => ({ gitVersion: 'v1.37' }) } as never;
    expect(await clusterVersionProblem(api)).toContain('does not say');
  });

  it('is asked of the API server', async () => {
    const asked: string[] = [];
    const call = async (method: string, path: string) => {
      asked.push(`${method} ${path}`);
      return { major: '1', minor: '28' };
    };
    expect(await clusterVersionProblem({ call } as never)).toContain('1.28');
    expect(asked).toEqual(['GET /version']);
  });
});
