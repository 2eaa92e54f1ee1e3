// Kubernetes quantities as numbers: `400M`, `1Gi`, `200m`, `1e3`. What is not a quantity is undefined.
const SUFFIXES: Record<string, number> = {
  '': 1,
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** A quantity in its base unit (bytes, cores, bytes per second). */
export function parseQuantity(quantity: string | number | undefined): number | undefined {
  if (quantity === undefined) return undefined;
  const match = /^([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)$/.exec(
    String(quantity),
  );
  if (match === null) return undefined;
  const [, digits = '', exponent = '', suffix = ''] = match;
  return exponent === '' ? Number(digits) * (SUFFIXES[suffix] ?? Number.NaN) : Number(digits + exponent);
}

/** A duration such as `1h30m` or `90s`, in milliseconds. What is not one is undefined. */
export function parseDurationMs(duration: string | undefined): number | undefined {
  if (duration === undefined || !/^(\d+(h|ms|m|s))+$/.test(duration)) return undefined;
  const units: Record<string, number> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 };
  let total = 0;
  for (const [, amount = '', unit = ''] of duration.matchAll(/(\d+)(h|ms|m|s)/g))
    total += Number(amount) * (units[unit] ?? 0);
  return total;
}
