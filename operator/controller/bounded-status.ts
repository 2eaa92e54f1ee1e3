// A status that the API server takes: KubeVirt's words (phases, names of nodes, reasons) have no bound of their own, ours have, and a status
// that breaks one would be refused for ever. What is too long is cut, what does not fit otherwise is left out. Pure.
import { checked } from '../../control/checked.ts';
import {
  type NasAwareMigrationStatus,
  nasAwareMigrationStatusSchema,
} from '../../crds/nas-aware-migration.ts';

/** What is left out may leave its surroundings without what they need: as deep as the schema is, and one more. */
const MAX_PASSES = 8;

/** The same value where it fits as it is. */
export function boundedStatus(status: NasAwareMigrationStatus): NasAwareMigrationStatus {
  let result = status;
  for (let pass = 0; pass < MAX_PASSES; pass += 1) {
    const parsed = checked(nasAwareMigrationStatusSchema, result);
    if (parsed.success) return result;
    if (result === status) result = structuredClone(status);
    // From the end, so that what is left out of a list moves nothing that is still to come.
    const mended = new Set<string>();
    for (const issue of parsed.error.issues.reverse()) {
      // A value may break several rules; the others are looked at in the next pass.
      const where = issue.path.join('.');
      if (mended.has(where)) continue;
      mended.add(where);
      const isTooLong = issue.code === 'too_big' && issue.origin === 'string';
      mend(result, issue.path, isTooLong ? Number(issue.maximum) : undefined);
    }
  }
  return result;
}

/** Cuts the text at the path, or leaves out what is there; what is not there, but needed, leaves out what needs it. */
function mend(root: object, path: readonly PropertyKey[], maxLength: number | undefined): void {
  const steps = path.map(String);
  const last = steps.at(-1);
  if (last === undefined) return;
  let parent: unknown = root;
  for (const step of steps.slice(0, -1)) parent = (parent as Record<string, unknown> | undefined)?.[step];
  if (typeof parent !== 'object' || parent === null) return;
  const fields = parent as Record<string, unknown>;
  const value = fields[last];
  if (value === undefined) mend(root, path.slice(0, -1), undefined);
  else if (maxLength !== undefined && typeof value === 'string') fields[last] = value.slice(0, maxLength);
  else if (Array.isArray(parent)) parent.splice(Number(last), 1);
  else delete fields[last];
}
