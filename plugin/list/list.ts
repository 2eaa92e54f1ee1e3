// `kubectl nasmig list`: the migrations, newest last, as kubectl lists things.
import type { Migration } from '../cluster/migration.ts';
import { listMigrations } from '../cluster/migrations.ts';
import { savingOf } from '../cluster/saving.ts';
import { objectsAs } from '../output/objects.ts';
import { age, bytes, duration } from '../output/sizes.ts';
import { type Column, table } from '../output/table.ts';
import type { Verb } from '../verb.ts';

export const list: Verb = {
  name: 'list',
  summary: 'list migrations: phase, whether accelerated, what was saved',
  description:
    'Lists NasAwareMigrations, those that others started (drains, virtctl) too, the newest last. Saved is what was, or with Observe would have been, saved.',
  words: '',
  minWords: 0,
  maxWords: 0,
  flags: [
    { name: 'vmi', value: 'NAME', meaning: 'only migrations of this VMI' },
    {
      name: 'phase',
      value: 'PHASE',
      repeated: true,
      choices: ['Pending', 'Preparing', 'Migrating', 'Succeeded', 'Failed', 'Cancelled'],
      meaning: 'only migrations in this phase; may be repeated',
    },
  ],
  outputs: ['json', 'yaml', 'wide', 'name'],
  examples: [
    'kubectl nasmig list -A',
    'kubectl nasmig list --vmi db -o wide',
    'kubectl nasmig list --phase Failed -o name',
  ],
  async run({ api, namespace, flags, output, terminal, now }) {
    const { objects, migrations } = await listMigrations(api, namespace, flags.text('selector'));
    const wanted = migrations
      .filter(
        ({ spec, status }) =>
          (!flags.has('vmi') || spec.vmiName === flags.text('vmi')) &&
          (!flags.has('phase') || flags.all('phase').includes(status.phase ?? 'Pending')),
      )
      .sort(
        (a, b) =>
          (namespace === undefined && a.namespace !== b.namespace
            ? a.namespace < b.namespace
              ? -1
              : 1
            : 0) ||
          a.creationMs - b.creationMs ||
          (a.name < b.name ? -1 : 1),
      );
    if (output !== undefined && output !== 'wide') {
      const byUid = new Map(objects.map((object) => [object.metadata?.uid ?? '', object]));
      const chosen = wanted.flatMap(({ uid }) => byUid.get(uid) ?? []);
      terminal.write(objectsAs(chosen, output, true));
      return 'ok';
    }
    if (wanted.length === 0) {
      terminal.note(`No migrations found${namespace === undefined ? '' : ` in namespace ${namespace}`}.\n`);
      return 'ok';
    }
    const columns = columnsFor(namespace === undefined, output === 'wide', now());
    terminal.write(`${table(wanted, columns, !flags.is('no-headers')).join('\n')}\n`);
    return 'ok';
  },
};

/** `Yes`, `No`, `Observed`, or `-` as long as it is not decided. */
export function acceleratedWord({ status }: Migration): string {
  if (status.result?.attempt === 'Observed') return 'Observed';
  const condition = status.conditions?.find(({ type }) => type === 'Accelerated');
  if (condition === undefined || condition.status === 'Unknown') return '-';
  return condition.status === 'True' ? 'Yes' : condition.reason === 'Observing' ? 'Observing' : 'No';
}

export function columnsFor(withNamespace: boolean, wide: boolean, nowMs: number): Column<Migration>[] {
  const columns: Column<Migration>[] = [
    { name: 'NAME', of: ({ name }) => name },
    { name: 'VMI', of: ({ spec }) => spec.vmiName },
    { name: 'PHASE', of: ({ status }) => status.phase ?? 'Pending' },
    { name: 'ACCELERATED', of: acceleratedWord },
    {
      name: 'PROGRESS',
      of: ({ status }) => (status.progress === undefined ? '-' : `${status.progress.percent}%`),
    },
    {
      name: 'SAVED',
      of: ({ status }) => {
        const saving = savingOf(status.result);
        return saving === undefined ? '-' : `${bytes(saving.savedBytes)} (${saving.savedPercent}%)`;
      },
    },
    { name: 'AGE', of: ({ creationMs }) => age(creationMs === 0 ? Number.NaN : nowMs - creationMs) },
  ];
  if (wide)
    columns.push(
      { name: 'SOURCE', of: ({ status }) => status.source?.node ?? '-' },
      { name: 'TARGET', of: ({ status }) => status.target?.node ?? '-' },
      {
        name: 'TOOK',
        of: ({ status }) =>
          status.result?.durationMs === undefined ? '-' : duration(status.result.durationMs),
      },
      {
        name: 'DOWN',
        of: ({ status }) =>
          status.result?.downtimeMs === undefined ? '-' : duration(status.result.downtimeMs),
      },
      {
        name: 'REASON',
        of: ({ status }) => status.conditions?.find(({ type }) => type === 'Accelerated')?.reason ?? '-',
      },
    );
  return withNamespace ? [{ name: 'NAMESPACE', of: ({ namespace }) => namespace }, ...columns] : columns;
}
