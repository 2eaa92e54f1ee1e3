// Draws a dashboard with its data as one SVG: the same places, titles and units as in Grafana, by a renderer of our own, because a
// picture in the documentation must not need a Grafana. It is a picture of real data, not a picture of Grafana.
import { layout } from '../dashboards/grafana.ts';
import type { Dashboard, Panel } from '../dashboards/panel.ts';
import { humanNumber } from './numbers.ts';
import { type DashboardData, type PanelData, type PanelSeries, panelsOf } from './panel-data.ts';

const COLUMN = 50;
const LINE = 22;
const MARGIN = 12;
const HEADER = 56;
const GAP = 4;
/** Seconds between points that belong together; the data is a point a second, or a little less. */
const LONGEST_STEP = 3;
const COLORS = ['#3274d9', '#e0752d', '#299c46', '#a352cc', '#b58900', '#d44a3a', '#0a9396', '#6c757d'];
const RED = '#d44a3a';
const GREEN = '#299c46';
const INK = '#24292f';
const GREY = '#6e7781';
const GRID = '#d8dee4';

interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export function drawDashboard(dashboard: Dashboard, data: DashboardData): string {
  const panels = panelsOf(dashboard);
  const places = layout(dashboard);
  const bottom = Math.max(...places.map(({ y, height }) => y + height));
  const width = 24 * COLUMN + 2 * MARGIN;
  const height = HEADER + bottom * LINE + MARGIN;
  const parts = places.map(({ what, x, y, width: columns, height: lines }) => {
    const box = {
      x: MARGIN + x * COLUMN,
      y: HEADER + y * LINE,
      width: columns * COLUMN - GAP,
      height: lines * LINE - GAP,
    };
    if (typeof what === 'string') return text(box.x + 2, box.y + 15, what, { size: 13, bold: true });
    const series = (data.panels[panels.indexOf(what)]?.series ?? []).filter(hasNumber);
    return drawPanel(what, { title: what.title, series }, box, data.seconds);
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="Helvetica, Arial, sans-serif">`,
    `<title>${inXml(dashboard.title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#f6f8fa"/>`,
    text(MARGIN, 24, dashboard.title, { size: 18, bold: true }),
    text(MARGIN, 43, data.caption, { size: 12, color: GREY }),
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

function drawPanel(panel: Panel, data: PanelData, box: Box, seconds: number): string {
  const frame = `<rect x="${box.x}" y="${box.y}" width="${box.width}" height="${box.height}" rx="3" fill="#fff" stroke="${GRID}"/>`;
  const title = text(box.x + 8, box.y + 16, panel.title, { size: 11.5, bold: true });
  const inner = { x: box.x + 8, y: box.y + 24, width: box.width - 16, height: box.height - 30 };
  const body =
    data.series.length === 0
      ? text(inner.x, inner.y + 24, 'No data', { size: 13, color: GREY })
      : panel.kind === 'stat'
        ? drawStat(panel, data, inner)
        : panel.kind === 'bars'
          ? drawBars(panel, data, inner)
          : drawGraph(panel, data, inner, seconds);
  return `<g>${frame}${title}${body}</g>`;
}

const hasNumber = ({ points }: PanelSeries) => points.some(([, value]) => Number.isFinite(value));
const last = ({ points }: PanelSeries): number => points.at(-1)?.[1] ?? Number.NaN;

function drawStat(panel: Panel, { series }: PanelData, box: Box): string {
  const value = series[0] === undefined ? Number.NaN : last(series[0]);
  const isWrong =
    (panel.wrongFrom !== undefined && value >= panel.wrongFrom) ||
    (panel.wrongBelow !== undefined && value < panel.wrongBelow);
  return text(box.x, box.y + 38, humanNumber(value, panel.unit), {
    size: 30,
    color: isWrong ? RED : GREEN,
    bold: true,
  });
}

function drawBars(panel: Panel, { series }: PanelData, box: Box): string {
  const shown = series.slice(0, 8);
  const most = Math.max(...shown.map(last), Number.MIN_VALUE);
  const step = Math.min(26, box.height / shown.length);
  const labelWidth = box.width * 0.38;
  return shown
    .map((one, index) => {
      const y = box.y + index * step;
      const length = Math.max(1, (box.width - labelWidth - 64) * (last(one) / most));
      return [
        text(box.x, y + 14, shorten(one.name, labelWidth), { size: 11 }),
        `<rect x="${round(box.x + labelWidth)}" y="${round(y + 4)}" width="${round(length)}" height="${round(step - 10)}" fill="${colorOf(index)}"/>`,
        text(box.x + labelWidth + length + 5, y + 14, humanNumber(last(one), panel.unit), { size: 11 }),
      ].join('');
    })
    .join('');
}

function drawGraph(panel: Panel, { series }: PanelData, box: Box, seconds: number): string {
  const legendHeight = 16;
  const plot = { x: box.x + 62, y: box.y + 2, width: box.width - 68, height: box.height - legendHeight - 18 };
  const lines = panel.stacked === true ? stacked(series) : series;
  const values = lines.flatMap(({ points }) => points.map(([, value]) => value)).filter(Number.isFinite);
  const most = Math.max(...values, 0) || 1;
  const top =
    panel.wrongFrom !== undefined && panel.wrongFrom < most * 3 ? Math.max(most, panel.wrongFrom) : most;
  const toX = (at: number) => round(plot.x + (at / Math.max(1, seconds)) * plot.width);
  const toY = (value: number) => round(plot.y + plot.height - (value / (top * 1.05)) * plot.height);
  const grid = [0, 0.5, 1].map((part) => {
    const y = toY(top * part);
    return `<line x1="${plot.x}" x2="${plot.x + plot.width}" y1="${y}" y2="${y}" stroke="${GRID}"/>${text(plot.x - 6, y + 4, humanNumber(top * part, panel.unit), { size: 10, color: GREY, anchor: 'end' })}`;
  });
  const times = [0, 0.5, 1].map((part) =>
    text(plot.x + part * plot.width, plot.y + plot.height + 13, `${Math.round(part * seconds)} s`, {
      size: 10,
      color: GREY,
      anchor: part === 0 ? 'start' : part === 1 ? 'end' : 'middle',
    }),
  );
  const limit =
    panel.wrongFrom !== undefined && panel.wrongFrom <= top
      ? `<line x1="${plot.x}" x2="${plot.x + plot.width}" y1="${toY(panel.wrongFrom)}" y2="${toY(panel.wrongFrom)}" stroke="${RED}" stroke-dasharray="4 3"/>`
      : '';
  const drawn = lines.map((one, index) => drawLine(one, colorOf(index), toX, toY, panel.stacked === true));
  let x = box.x;
  const legend = series.map((one, index) => {
    const name = one.name === '' ? panel.title : one.name;
    const label = `${name} ${humanNumber(last(one), panel.unit)}`;
    const at = x;
    x += 18 + label.length * 6;
    if (x > box.x + box.width + 20) return '';
    return `<rect x="${round(at)}" y="${round(box.y + box.height - 9)}" width="9" height="3" fill="${colorOf(index)}"/>${text(at + 12, box.y + box.height - 4, label, { size: 10 })}`;
  });
  return [...grid, ...times, limit, ...drawn.reverse(), ...legend].join('');
}

/** Each on top of those before it. */
function stacked(series: readonly PanelSeries[]): PanelSeries[] {
  const sums = new Map<number, number>();
  return series.map(({ name, points }) => ({
    name,
    points: points.map(([at, value]) => {
      const sum = (sums.get(at) ?? 0) + (Number.isFinite(value) ? value : 0);
      sums.set(at, sum);
      return [at, sum] as const;
    }),
  }));
}

/** A line is broken where there is no value. */
function drawLine(
  { points }: PanelSeries,
  color: string,
  toX: (at: number) => number,
  toY: (value: number) => number,
  isFilled: boolean,
): string {
  const runs: (readonly [number, number])[][] = [[]];
  for (const point of points) {
    const before = runs.at(-1)?.at(-1);
    if (!Number.isFinite(point[1]) || (before !== undefined && point[0] - before[0] > LONGEST_STEP))
      runs.push([]);
    if (Number.isFinite(point[1])) runs.at(-1)?.push(point);
  }
  return runs
    .filter((run) => run.length > 0)
    .map((run) => {
      const line = run.map(([at, value]) => `${toX(at)},${toY(value)}`).join(' ');
      const [first] = run[0] ?? [0];
      const [end] = run.at(-1) ?? [0];
      const area = isFilled
        ? `<polygon points="${toX(first)},${toY(0)} ${line} ${toX(end)},${toY(0)}" fill="${color}" fill-opacity="0.35"/>`
        : '';
      return run.length === 1
        ? `<circle cx="${toX(first)}" cy="${toY(run[0]?.[1] ?? 0)}" r="2" fill="${color}"/>`
        : `${area}<polyline points="${line}" fill="none" stroke="${color}" stroke-width="1.5"/>`;
    })
    .join('');
}

interface TextStyle {
  readonly size: number;
  readonly color?: string;
  readonly bold?: boolean;
  readonly anchor?: 'start' | 'middle' | 'end';
}

function text(x: number, y: number, content: string, { size, color = INK, bold, anchor }: TextStyle): string {
  const weight = bold === true ? ' font-weight="600"' : '';
  const at = anchor === undefined || anchor === 'start' ? '' : ` text-anchor="${anchor}"`;
  return `<text x="${round(x)}" y="${round(y)}" font-size="${size}" fill="${color}"${weight}${at}>${inXml(content)}</text>`;
}

const colorOf = (index: number) => COLORS[index % COLORS.length] ?? INK;
const round = (value: number) => Math.round(value * 10) / 10;
const shorten = (name: string, width: number) => {
  const most = Math.floor(width / 6);
  return name.length > most ? `${name.slice(0, most - 1)}…` : name;
};

function inXml(content: string): string {
  return content
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}
