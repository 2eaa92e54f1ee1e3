// metav1 conditions: one per type, lastTransitionTime only when the status changes, and never in the future: what was written by
// a leader whose clock was ahead begins anew by ours, so that what waits since then does not wait for our clock. Pure.
import type { OutcomeReason } from '../../control/outcome-reasons.ts';
import type { Reason } from '../../control/reasons.ts';
import type { Condition } from '../../crds/fields.ts';

/** What a condition or an event may have as its reason: docs/reasons.md says of each what it means. */
export type DocumentedReason = Reason | OutcomeReason;

export interface ConditionChange {
  type: string;
  status: Condition['status'];
  /** A documented constant. */
  reason: DocumentedReason;
  message: string;
}

/** Longest message that is kept: long enough for a list of volumes, short enough for `kubectl describe`. */
const MAX_MESSAGE_LENGTH = 2048;

/** The conditions with `changes` made, in the order of `changes`, then the others. */
export function withConditions(
  before: readonly Condition[],
  changes: readonly ConditionChange[],
  generation: number,
  nowMs: number,
): Condition[] {
  const changed = changes.map((change): Condition => {
    const earlier = before.find(({ type }) => type === change.type);
    return {
      ...change,
      message: change.message.slice(0, MAX_MESSAGE_LENGTH),
      observedGeneration: generation,
      lastTransitionTime:
        earlier?.status === change.status && Date.parse(earlier.lastTransitionTime) <= nowMs
          ? earlier.lastTransitionTime
          : new Date(nowMs).toISOString().replace(/\.\d+Z$/, 'Z'),
    };
  });
  return [...changed, ...before.filter(({ type }) => !changes.some((change) => change.type === type))];
}
