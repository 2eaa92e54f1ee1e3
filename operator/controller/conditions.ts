// metav1 conditions: one per type, lastTransitionTime only when the status changes. Pure.
import type { Condition } from '../../crds/fields.ts';

export interface ConditionChange {
  type: string;
  status: Condition['status'];
  reason: string;
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
        earlier?.status === change.status
          ? earlier.lastTransitionTime
          : new Date(nowMs).toISOString().replace(/\.\d+Z$/, 'Z'),
    };
  });
  return [...changed, ...before.filter(({ type }) => !changes.some((change) => change.type === type))];
}
