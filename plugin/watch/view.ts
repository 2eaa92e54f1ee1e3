// What `watch` shows of migrations: as blocks of lines for a screen, and as one line for each change where there is no screen.
// Pure: migrations and the time in, lines out.
import { isFinished } from '../../operator/controller/decide.ts';
import type { Migration } from '../cluster/migration.ts';
import { titleOf } from '../cluster/migrations.ts';
import { savingOf } from '../cluster/saving.ts';
import { acceleratedWord } from '../list/list.ts';
import type { Palette, Signs } from '../output/colours.ts';
import { bytes, duration, percent, rate } from '../output/sizes.ts';
import { cut, width } from '../output/table.ts';
import type { Rates } from './rates.ts';

export interface ViewOptions {
  columns: number;
  palette: Palette;
  signs: Signs;
  withNamespace: boolean;
  nowMs: number;
}

const PAGE_BYTES = 4096;
const MIN_BAR = 10;
const MAX_BAR = 60;

/** The lines about one migration, each at most `columns` wide. */
export function block(migration: Migration, rates: Rates | undefined, options: ViewOptions): string[] {
  const lines = [
    headline(migration, options),
    ...barLine(migration, options),
    ...(isFinished(migration.status) ? ending(migration) : running(migration, rates)),
    ...why(migration, options),
  ];
  return lines.map((line, at) => cut(at === 0 ? line : `  ${line}`, options.columns));
}

function headline(migration: Migration, { palette, signs, withNamespace }: ViewOptions): string {
  const { spec, status } = migration;
  const from = status.source?.node;
  const to = status.target?.node;
  const way = from === undefined ? '' : `   ${from} ${signs.arrow} ${to ?? '?'}`;
  return `${palette.strong(titleOf(migration, withNamespace))}   VM ${spec.vmiName}   ${phase(migration, palette)}   ${mode(migration)}${way}`;
}

function phase({ status }: Migration, palette: Palette): string {
  const name = status.phase ?? 'Pending';
  if (name === 'Succeeded') return palette.good(name);
  if (name === 'Failed') return palette.bad(name);
  return name === 'Cancelled' ? palette.warning(name) : name;
}

/** In words, whether pages come from the NAS. */
function mode(migration: Migration): string {
  switch (acceleratedWord(migration)) {
    case 'Yes':
      return 'accelerated';
    case 'Observed':
    case 'Observing':
      return 'observed only';
    case 'No':
      return 'plain';
    default:
      return 'not decided yet';
  }
}

function barLine({ status }: Migration, { columns, palette, signs }: ViewOptions): string[] {
  const { progress } = status;
  if (progress === undefined) return [];
  const parts = [`${String(progress.percent).padStart(3)} %`];
  if (!isFinished(status)) {
    parts.push(`pass ${progress.iteration}`);
    if (progress.secondsLeft !== undefined) parts.push(`${duration(progress.secondsLeft * 1000)} left`);
  }
  const words = parts.join('   ');
  const room = Math.min(MAX_BAR, columns - width(words) - 6);
  if (room < MIN_BAR) return [words];
  const full = Math.round((progress.percent / 100) * room);
  const colour = status.phase === 'Failed' ? palette.bad : palette.good;
  return [`[${colour(signs.full.repeat(full))}${palette.faint(signs.empty.repeat(room - full))}] ${words}`];
}

function running({ status }: Migration, rates: Rates | undefined): string[] {
  const { progress } = status;
  if (progress === undefined) return [];
  const speeds = [`guest memory ${rate(progress.bytesPerSecond)}`];
  if (rates !== undefined)
    speeds.push(`link ${rate(rates.linkBytesPerSecond)}`, `NAS ${rate(rates.nasBytesPerSecond)}`);
  return [
    speeds.join('   '),
    `on the link ${bytes(progress.linkBytes)}   from the NAS ${bytes(progress.nasBytes)}   remaining ${bytes(progress.remainingBytes)}`,
  ];
}

function ending({ status }: Migration): string[] {
  const { result } = status;
  if (result === undefined) return [];
  const lines: string[] = [];
  if (result.durationMs !== undefined)
    lines.push(
      `took ${duration(result.durationMs)}${result.downtimeMs === undefined ? '' : `   VM stopped ${duration(result.downtimeMs)}`}` +
        `${result.iterations === undefined ? '' : `   passes ${result.iterations}`}`,
    );
  const saving = savingOf(result);
  const pages = saving?.pages ?? result.pages;
  if (pages !== undefined) lines.push(pagesLine(pages));
  const parts: string[] = [];
  if (saving !== undefined)
    parts.push(
      `${saving.real ? 'saved' : 'would have saved'} ${bytes(saving.savedBytes)} (${saving.savedPercent} %)`,
    );
  if (result.linkBytes !== undefined)
    parts.push(`on the link ${bytes(result.linkBytes)}`, `from the NAS ${bytes(result.nasBytes ?? 0)}`);
  if (result.resends !== undefined && result.resends > 0) parts.push(`batches resent ${result.resends}`);
  if (parts.length > 0) lines.push(parts.join('   '));
  return lines;
}

/** Pages by what became of them, with their share of all that are not zero. */
export function pagesLine(pages: NonNullable<NonNullable<Migration['status']['result']>['pages']>): string {
  const { reference, literalRaw, literalCompressed, zero } = pages;
  const full = reference + literalRaw + literalCompressed;
  return (
    `pages: from the NAS ${reference} (${percent(reference, full)} %, ${bytes(reference * PAGE_BYTES)})` +
    `   over the link ${literalRaw + literalCompressed} (${literalCompressed} compressed)   zero ${zero}`
  );
}

/** The message of what a person should know: why it is plain, why it failed, what it waits for. */
function why({ status }: Migration, { palette }: ViewOptions): string[] {
  const accelerated = status.conditions?.find(({ type }) => type === 'Accelerated');
  const complete = status.conditions?.find(({ type }) => type === 'Complete');
  if (status.phase === 'Failed' || status.phase === 'Cancelled')
    return complete === undefined ? [] : [palette.warning(complete.message)];
  if (status.phase === undefined) return ['waiting for the operator to take it up'];
  if (accelerated?.status === 'False' && accelerated.reason !== 'Observing')
    return [palette.warning(`${accelerated.reason}: ${accelerated.message}`)];
  if (accelerated?.status === 'Unknown' && status.progress === undefined) return [accelerated.message];
  return [];
}

/** A whole screen: a line about all, a block for each, those under way first; what does not fit is counted. */
export function screen(
  blocks: readonly { lines: string[]; finished: boolean }[],
  head: string,
  foot: string,
  rows: number,
  columns: number,
): string[] {
  const ordered = [
    ...blocks.filter(({ finished }) => !finished),
    ...blocks.filter(({ finished }) => finished),
  ];
  const body: string[] = [];
  // One row for the head, one for the empty line after it, one for the foot.
  const room = Math.max(1, rows - 3);
  let shown = 0;
  for (const { lines } of ordered) {
    const gap = body.length === 0 ? 0 : 1;
    const isLast = shown === ordered.length - 1;
    if (body.length + gap + lines.length > room - (isLast ? 0 : 1)) break;
    if (gap === 1) body.push('');
    body.push(...lines);
    shown += 1;
  }
  const [first] = ordered;
  if (shown === 0 && first !== undefined) {
    // Not even one fits: as much of it as there is room for.
    body.push(...first.lines.slice(0, room));
    shown = 1;
  }
  const hidden = ordered.length - shown;
  if (hidden > 0) {
    if (body.length >= room) body.length = Math.max(0, room - 1);
    body.push(`… and ${hidden} more: make the terminal taller, or name one`);
  }
  return [head, '', ...body, foot].slice(0, Math.max(1, rows)).map((line) => cut(line, columns));
}

/** One line for a change, for logs and pipes. */
export function changeLine(migration: Migration, withNamespace: boolean): string {
  const { status, spec } = migration;
  const { progress, result } = status;
  const parts = [
    titleOf(migration, withNamespace),
    `vmi=${spec.vmiName}`,
    `phase=${status.phase ?? 'Pending'}`,
  ];
  const accelerated = acceleratedWord(migration);
  if (accelerated !== '-') parts.push(`accelerated=${accelerated}`);
  if (progress !== undefined && !isFinished(status)) {
    parts.push(
      `percent=${progress.percent}`,
      `pass=${progress.iteration}`,
      `remainingBytes=${progress.remainingBytes}`,
      `linkBytes=${progress.linkBytes}`,
      `nasBytes=${progress.nasBytes}`,
    );
    if (progress.secondsLeft !== undefined) parts.push(`secondsLeft=${progress.secondsLeft}`);
  }
  if (result !== undefined) {
    const saving = savingOf(result);
    if (saving !== undefined)
      parts.push(`savedBytes=${saving.savedBytes}`, `savedPercent=${saving.savedPercent}`);
    if (result.linkBytes !== undefined) parts.push(`linkBytes=${result.linkBytes}`);
    if (result.nasBytes !== undefined) parts.push(`nasBytes=${result.nasBytes}`);
    if (result.durationMs !== undefined) parts.push(`durationMs=${result.durationMs}`);
    if (result.downtimeMs !== undefined) parts.push(`downtimeMs=${result.downtimeMs}`);
    if (result.reason !== undefined) parts.push(`reason=${result.reason}`);
  }
  return parts.join(' ');
}
