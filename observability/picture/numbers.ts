// Numbers for people, by the unit of a panel: `28.4 MiB`, `1.9 s`, `93 %`.
import type { Unit } from '../dashboards/panel.ts';

const BINARY = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
const DECIMAL = ['', 'k', 'M', 'G'];

/** At most three digits that say something. */
export function humanNumber(value: number, unit: Unit): string {
  if (Number.isNaN(value)) return 'no data';
  switch (unit) {
    case 'bool':
      return value === 0 ? 'no' : 'yes';
    case 'percentunit':
      return `${digits(value * 100)} %`;
    case 'bytes':
      return scaled(value, 1024, BINARY, ' ');
    case 'Bps':
      return `${scaled(value, 1024, BINARY, ' ')}/s`;
    case 's':
      return seconds(value);
    case 'reqps':
      return `${digits(value)}/s`;
    case 'short':
      return scaled(value, 1000, DECIMAL, '');
  }
}

function scaled(value: number, base: number, units: readonly string[], space: string): string {
  let power = 0;
  while (Math.abs(value) >= base && power < units.length - 1) {
    value /= base;
    power += 1;
  }
  const unit = units[power] ?? '';
  return unit === '' ? digits(value) : `${digits(value)}${space}${unit}`;
}

function seconds(value: number): string {
  const size = Math.abs(value);
  if (size >= 172_800) return `${digits(value / 86_400)} d`;
  if (size >= 7200) return `${digits(value / 3600)} h`;
  if (size >= 120) return `${digits(value / 60)} min`;
  if (size >= 1 || value === 0) return `${digits(value)} s`;
  return `${digits(value * 1000)} ms`;
}

function digits(value: number): string {
  return String(Number(value.toPrecision(3)));
}
