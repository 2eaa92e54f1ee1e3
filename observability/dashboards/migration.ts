// One migration while it runs: how far it is, over which path its bytes go, and what became of its pages. Its series exist while
// it runs and for a minute after; Prometheus keeps them.
import type { Dashboard, Panel, Query } from './panel.ts';

const RATE = '$__rate_interval';
const labels = 'namespace=~"$namespace", vmi=~"$vmi", name=~"$migration"';
const of = (metric: string, more = '') => `nasmig_migration_${metric}{${labels}${more}}`;
/** A migration is told by one replica at a time. */
const sum = (metric: string) => `sum(${of(metric)})`;
const speed = (metric: string) => `sum(deriv(${of(metric)}[${RATE}]))`;

const stat = (title: string, description: string, unit: Panel['unit'], expr: string): Panel => ({
  title,
  description,
  unit,
  kind: 'stat',
  width: 4,
  queries: [{ expr, legend: '' }],
});

const graph = (
  title: string,
  description: string,
  unit: Panel['unit'],
  queries: readonly Query[],
  more: Partial<Panel> = {},
): Panel => ({ title, description, unit, kind: 'graph', width: 12, queries, ...more });

export const migrationDashboard: Dashboard = {
  name: 'nas-aware-migration-one',
  title: 'NAS-aware migration / One migration',
  description: 'One migration, or several at once, while they run.',
  variables: [
    { name: 'namespace', label: 'Namespace', metric: 'nasmig_migration_ram_bytes', of: 'namespace' },
    { name: 'vmi', label: 'VM', metric: 'nasmig_migration_ram_bytes{namespace=~"$namespace"}', of: 'vmi' },
    {
      name: 'migration',
      label: 'Migration',
      metric: 'nasmig_migration_ram_bytes{namespace=~"$namespace", vmi=~"$vmi"}',
      of: 'name',
      multiple: true,
    },
  ],
  sections: [
    {
      title: 'Where it stands',
      panels: [
        stat('Guest memory', 'Of the VM.', 'bytes', sum('ram_bytes')),
        stat('Still to send', 'What QEMU has still to send.', 'bytes', sum('remaining_bytes')),
        stat(
          'Pass',
          "QEMU's pass over the memory; many of them mean that the guest writes faster than the link.",
          'short',
          `max(${of('iteration')})`,
        ),
        stat('On the link', 'So far.', 'bytes', sum('link_bytes')),
        stat('From the NAS', 'So far.', 'bytes', sum('nas_bytes')),
        stat(
          'Not sent',
          'Of what QEMU wrote so far, the part that did not go over the link.',
          'percentunit',
          `1 - ${sum('link_bytes')} / (${sum('qemu_bytes')} > 0)`,
        ),
      ],
    },
    {
      title: 'How it goes',
      panels: [
        graph('What is left', 'Falls in the first pass; later it is what the guest dirtied.', 'bytes', [
          { expr: `sum by (name) (${of('remaining_bytes')})`, legend: '{{name}}' },
        ]),
        graph('Speed', "QEMU's stream, and the two ways it goes.", 'Bps', [
          { expr: speed('qemu_bytes'), legend: 'QEMU' },
          { expr: speed('link_bytes'), legend: 'link' },
          { expr: speed('nas_bytes'), legend: 'NAS' },
        ]),
        graph('Bytes so far', 'The distance between QEMU and link is what is saved.', 'bytes', [
          { expr: sum('qemu_bytes'), legend: 'QEMU' },
          { expr: sum('link_bytes'), legend: 'link' },
          { expr: sum('nas_bytes'), legend: 'NAS' },
        ]),
        graph(
          'Pages so far',
          'Reference: the target read it from the NAS.',
          'short',
          [{ expr: `sum by (kind) (${of('pages')})`, legend: '{{kind}}' }],
          { stacked: true },
        ),
        graph('Batches sent again', 'Because the NAS had other data than the index says.', 'short', [
          { expr: sum('resent_batches'), legend: 'sent again' },
        ]),
        graph('Passes', "QEMU's pass over the memory.", 'short', [
          { expr: `max by (name) (${of('iteration')})`, legend: '{{name}}' },
        ]),
      ],
    },
  ],
  from: 'now-30m',
  refresh: '5s',
};
