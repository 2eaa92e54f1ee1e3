import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readVmi, readVmim } from './objects.ts';

describe('KubeVirt objects', () => {
  it('are read as far as they fit', () => {
    const vmi = readVmi({
      metadata: { name: 'db', namespace: 'shop', uid: 'u' },
      ...({
        spec: { volumes: [{ name: 'a', persistentVolumeClaim: { claimName: 'c' } }, { noName: true }, 7] },
        status: {
          phase: 'Running',
          conditions: 'nonsense',
          migrationState: { migrationUid: 5, sourcePod: 'p' },
        },
      } as object),
    });
    expect(vmi?.spec.volumes.map(({ name }) => name)).toEqual(['a']);
    expect(vmi?.status).toMatchObject({ phase: 'Running', conditions: [] });
    expect(vmi?.status.migrationState).toMatchObject({ sourcePod: 'p' });
    expect(vmi?.status.migrationState?.migrationUid).toBeUndefined();
  });

  it('may lack spec and status', () => {
    expect(readVmim({ metadata: { name: 'm' } })?.status).toEqual({ conditions: [] });
    expect(readVmi({ metadata: { name: 'v' } })?.status.volumeStatus).toEqual([]);
    expect(readVmi({})).toBeUndefined();
    expect(readVmi(undefined)).toBeUndefined();
  });

  it('never throw, whatever an API server lets in', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.jsonValue(), (spec, status) => {
        const object = { metadata: { name: 'x' }, spec, status } as object;
        expect(readVmi(object)?.metadata.name).toBe('x');
        expect(readVmim(object)?.metadata.name).toBe('x');
      }),
      { numRuns: 300 },
    );
  });
});
