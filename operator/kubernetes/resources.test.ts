import { describe, expect, it } from 'vitest';
import { pathOf, resourceOfPath, resources } from './resources.ts';

describe('paths', () => {
  it.each([
    [resources.pods, ['shop', 'x', 'status'], '/api/v1/namespaces/shop/pods/x/status'],
    [resources.pods, [], '/api/v1/pods'],
    [resources.namespaces, [], '/api/v1/namespaces'],
    [resources.namespaces, [undefined, 'shop'], '/api/v1/namespaces/shop'],
    [
      resources.nasAwareMigrations,
      ['shop', 'x'],
      '/apis/nasmigration.io/v1alpha1/namespaces/shop/nasawaremigrations/x',
    ],
    [
      resources.nasMigrationPolicies,
      ['ignored', 'p'],
      '/apis/nasmigration.io/v1alpha1/nasmigrationpolicies/p',
    ],
  ] as const)('of %o', (resource, parts, path) => {
    expect(pathOf(resource, ...(parts as readonly string[]))).toBe(path);
    expect(resourceOfPath(path)).toBe(resource.plural);
  });

  it('hold a name, where one is asked for: without it they would be about all objects', () => {
    expect(() => pathOf(resources.pods, 'shop', '')).toThrow('a request for one of pods without its name');
  });

  it('hold no name that could lead elsewhere', () => {
    expect(pathOf(resources.pods, 'a/b', '../x')).toBe('/api/v1/namespaces/a%2Fb/pods/..%2Fx');
  });
});
