import { describe, expect, it } from 'vitest';
import { parseDurationMs, parseQuantity } from './quantities.ts';

describe('quantities', () => {
  it.each([
    ['0', 0],
    ['400M', 4e8],
    ['1Gi', 2 ** 30],
    ['200m', 0.2],
    ['1.5k', 1500],
    ['1e3', 1000],
    ['2E', 2e18],
    [64, 64],
    ['0Mi', 0],
  ])('reads %s', (given, expected) => {
    expect(parseQuantity(given)).toBeCloseTo(expected, 9);
  });

  it.each(['', 'fast', '1 Gi', '1GiB', '--1', undefined])('does not read %s', (given) => {
    expect(parseQuantity(given)).toBeUndefined();
  });
});

describe('durations', () => {
  it.each([
    ['30s', 30_000],
    ['1h30m', 5_400_000],
    ['250ms', 250],
    ['0s', 0],
  ])('reads %s', (given, expected) => {
    expect(parseDurationMs(given)).toBe(expected);
  });

  it.each(['', 'soon', '10', '-1s', undefined])('does not read %s', (given) => {
    expect(parseDurationMs(given)).toBeUndefined();
  });
});
