import { describe, expect, it } from 'vitest';
import { nasAwareMigrationSpecSchema } from '../../crds/nas-aware-migration.ts';
import { theOne } from '../cancel/cancel.ts';
import { referenceOf } from '../cluster/migrations.ts';
import { parseLine } from '../command-line.ts';
import { PluginError } from '../errors.ts';
import { choose } from '../suspend/suspend.ts';
import { migration, succeeded } from '../testing/objects.ts';
import { flagsOf } from '../usage.ts';
import { manifestFor, migrate } from './migrate.ts';

const manifest = (...line: string[]) => manifestFor('shop', 'db', parseLine(line, flagsOf(migrate)).flags);
const messageOf = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(PluginError);
    return `${(error as PluginError).exit}: ${(error as PluginError).message}`;
  }
  throw new Error('it was taken');
};

describe('the object that migrate makes', () => {
  it('says no more than what was asked', () => {
    expect(manifest()).toEqual({
      apiVersion: 'nasmigration.io/v1alpha1',
      kind: 'NasAwareMigration',
      metadata: { namespace: 'shop', generateName: 'db-' },
      spec: { vmiName: 'db' },
    });
  });

  it('has every flag in its place, and fits the schema', () => {
    const { metadata, spec } = manifest(
      '--name=m',
      '--acceleration',
      'Required',
      '--to-node',
      'n1',
      '--node-selector',
      'a=b,c=d',
      '--volumes',
      'x,y',
      '--volumes=x',
      '--link-bandwidth',
      '400M',
      '--nas-read-bandwidth',
      '1Gi',
      '--prepare-timeout',
      '30',
      '--ttl',
      '1h30m',
    );
    expect(metadata).toMatchObject({ name: 'm' });
    expect(nasAwareMigrationSpecSchema.parse(spec)).toEqual({
      vmiName: 'db',
      acceleration: 'Required',
      target: { nodeSelector: { 'kubernetes.io/hostname': 'n1', a: 'b', c: 'd' } },
      volumes: ['x', 'y'],
      limits: { linkBandwidth: '400M', nasReadBandwidth: '1Gi' },
      prepareTimeout: '30s',
      ttlAfterFinished: '5400s',
    });
  });

  it('is not made of values that make no sense', () => {
    expect(messageOf(() => manifest('--link-bandwidth', '0'))).toContain(
      'usage: --link-bandwidth 0 is not a quantity above zero',
    );
    expect(messageOf(() => manifest('--node-selector', 'a'))).toContain('is not KEY=VALUE');
    expect(messageOf(() => manifest('--ttl', 'soon'))).toContain('is not a duration');
  });
});

describe('names', () => {
  it('are of a VMI, a migration, or either', () => {
    expect(referenceOf('db')).toEqual({ kind: 'either', name: 'db' });
    expect(referenceOf('vmi/db')).toEqual({ kind: 'vmi', name: 'db' });
    expect(referenceOf('nasawaremigration.nasmigration.io/m')).toEqual({ kind: 'migration', name: 'm' });
    expect(messageOf(() => referenceOf('pod/x'))).toContain('Write vmi/NAME or nam/NAME.');
    expect(messageOf(() => referenceOf('vmi/'))).toContain('usage');
  });
});

describe('what cancel takes', () => {
  const open = migration('open', { phase: 'Migrating' });
  const done = migration('done', succeeded('Plain'));

  it('is the one under way', () => {
    expect(theOne('db', [done, open], 'shop')).toBe(open);
    expect(theOne('open', [done, open], 'shop')).toBe(open);
  });

  it('is not guessed among several', () => {
    const second = migration('second', {}, { createdAgoMs: 1000 });
    expect(messageOf(() => theOne('db', [open, second], 'shop'))).toBe(
      'conflict: several migrations of db are under way: second, open\nName one: kubectl nasmig cancel nam/second.',
    );
  });

  it('is refused when it is over, or not there', () => {
    expect(messageOf(() => theOne('db', [done], 'shop'))).toContain(
      'conflict: nothing to cancel: done is Succeeded already',
    );
    expect(messageOf(() => theOne('x', [done], 'shop'))).toContain('notFound: there is no migration x');
  });

  it('prefers the name of a migration to that of a VM', () => {
    const named = migration('db', { phase: 'Migrating' }, { vmi: 'other' });
    expect(theOne('db', [open, named], 'shop')).toBe(named);
    expect(theOne('vmi/db', [open, named], 'shop')).toBe(open);
  });
});

describe('which policies are suspended', () => {
  const policies = ['default', 'gold'].map((name) => ({ metadata: { name }, spec: {} }));

  it('is said by name or --all, never by nothing', () => {
    expect(choose(policies, ['gold'], false)).toEqual([policies[1]]);
    expect(choose(policies, ['nasmigrationpolicy.nasmigration.io/gold'], false)).toEqual([policies[1]]);
    expect(choose(policies, [], true)).toEqual(policies);
    expect(messageOf(() => choose(policies, [], false))).toContain(
      'usage: which policy?\nName some of default, gold',
    );
    expect(messageOf(() => choose(policies, ['gold'], true))).toContain('exclude each other');
    expect(messageOf(() => choose(policies, ['golb'], false))).toContain('Did you mean gold?');
    expect(messageOf(() => choose([], [], true))).toContain('notFound: there is no NasMigrationPolicy');
  });
});
