// What a rule is before it is a line of a Prometheus rule file. Every duration in a rule goes through `range`, so that the same
// rules can be made faster for a test that cannot wait an hour: nothing else of them changes.

/** Seconds as a Prometheus duration; a test's variant divides them. */
export type Range = (seconds: number) => string;

export interface RecordingRule {
  /** `level:metric:operation`. */
  readonly record: string;
  readonly expr: (range: Range) => string;
}

export type Severity = 'critical' | 'warning' | 'info';

export interface AlertRule {
  readonly alert: string;
  readonly severity: Severity;
  /** What it says of the operator itself, in KubeVirt's words. */
  readonly health: 'none' | 'warning' | 'critical';
  /** How long the expression must hold. */
  readonly forSeconds: number;
  readonly expr: (range: Range) => string;
  /** One line, without values. */
  readonly summary: string;
  /** What is the case, with values, and what it means. */
  readonly description: string;
  /** Makes sense only while the webhook is asked for. */
  readonly needsInjection?: true;
}

/** As written. */
export const realTime: Range = (seconds) => promDuration(seconds * 1000);

/** Every duration divided; at least `minimumMs`, because a range needs a few samples. */
export function scaledTime(divisor: number, minimumMs: number): Range {
  return (seconds) => promDuration(Math.max(minimumMs, Math.round((seconds * 1000) / divisor)));
}

/** The largest whole unit: `1h`, `90s`, `1500ms`. */
function promDuration(milliseconds: number): string {
  if (milliseconds % 86_400_000 === 0) return `${milliseconds / 86_400_000}d`;
  if (milliseconds % 3_600_000 === 0) return `${milliseconds / 3_600_000}h`;
  if (milliseconds % 60_000 === 0) return `${milliseconds / 60_000}m`;
  return milliseconds % 1000 === 0 ? `${milliseconds / 1000}s` : `${milliseconds}ms`;
}
