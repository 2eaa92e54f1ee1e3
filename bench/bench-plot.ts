// The bench as a picture (SVG): for each guest and rate, link bytes and total time of each way, as a share of plain's. Pure.

import type { BenchRecord } from './bench-record.ts';
import { plainOf, ratesOf } from './bench-table.ts';

const BAR_HEIGHT = 14;
const BAR_GAP = 3;
const GROUP_GAP = 16;
const LABEL_WIDTH = 200;
const PANEL_WIDTH = 320;
const PANEL_GAP = 90;
const TOP = 76;
const BOTTOM = 16;
/** Bars end here, at 110 % of plain. */
const LARGEST_SHARE = 1.1;

/** Distinct in lightness too, for those who do not see the hues apart. */
const COLOURS: Readonly<Record<BenchRecord['method'], string>> = {
  plain: '#9a9a9a',
  zstd: '#e0a030',
  nas: '#1f5fa8',
};
const NAMES: Readonly<Record<BenchRecord['method'], string>> = {
  plain: 'plain',
  zstd: 'QEMU multifd zstd',
  nas: 'NAS-aware',
};

const PANELS = [
  { title: 'link bytes', key: 'linkBytes', show: (value: number) => `${(value / 2 ** 20).toFixed(0)} MiB` },
  { title: 'total time', key: 'totalMs', show: (value: number) => `${(value / 1000).toFixed(1)} s` },
] as const;

const escaped = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

function text(x: number, y: number, content: string, more = ''): string {
  return `<text x="${x}" y="${y}"${more}>${escaped(content)}</text>`;
}

/** Records without a plain migration beside them, and variants, are left out. */
export function benchPlot(records: readonly BenchRecord[]): string {
  const plains = records.filter((record) => record.method === 'plain');
  const parts: string[] = [];
  let y = TOP;
  for (const plain of plains) {
    const group = records.filter(
      (record) => record.variant === undefined && plainOf(record, records) === plain,
    );
    const height = group.length * (BAR_HEIGHT + BAR_GAP);
    parts.push(text(8, y + BAR_HEIGHT - 3, plain.guest, ' font-weight="bold"'));
    parts.push(text(8, y + 2 * BAR_HEIGHT, `${ratesOf(plain)} Mbit/s`));
    for (const [row, record] of group.entries()) {
      const top = y + row * (BAR_HEIGHT + BAR_GAP);
      for (const [column, { key, show }] of PANELS.entries()) {
        const left = LABEL_WIDTH + column * (PANEL_WIDTH + PANEL_GAP);
        const [value, whole] = [record[key], plain[key]];
        if (value === null || whole === null || whole === 0) {
          parts.push(text(left + 4, top + BAR_HEIGHT - 3, 'did not converge'));
          continue;
        }
        const width = Math.min(value / whole, LARGEST_SHARE) * (PANEL_WIDTH / LARGEST_SHARE);
        parts.push(
          `<rect x="${left}" y="${top}" width="${width.toFixed(1)}" height="${BAR_HEIGHT}" fill="${COLOURS[record.method]}"/>`,
          text(left + Number(width.toFixed(1)) + 4, top + BAR_HEIGHT - 3, show(value)),
        );
      }
    }
    y += height + GROUP_GAP;
  }
  const width = LABEL_WIDTH + 2 * PANEL_WIDTH + 2 * PANEL_GAP;
  const heads = PANELS.map(({ title }, column) =>
    text(
      LABEL_WIDTH + column * (PANEL_WIDTH + PANEL_GAP),
      TOP - 14,
      `${title}, plain is the measure`,
      ' font-weight="bold"',
    ),
  );
  const legend = (['plain', 'zstd', 'nas'] as const).flatMap((method, index) => {
    const left = LABEL_WIDTH + index * 170;
    return [
      `<rect x="${left}" y="14" width="${BAR_HEIGHT}" height="${BAR_HEIGHT}" fill="${COLOURS[method]}"/>`,
      text(left + BAR_HEIGHT + 6, 14 + BAR_HEIGHT - 3, NAMES[method]),
    ];
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y + BOTTOM}" font-family="sans-serif" font-size="12">`,
    '<title>Link bytes and total time by guest, rates and method</title>',
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    ...legend,
    ...heads,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}
