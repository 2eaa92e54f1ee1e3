// What a migration saved, or with Observe would have: then the numbers stand in result.estimate, and those of the link are what a
// plain migration sent. Pure.
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';

type Result = NonNullable<NasAwareMigrationStatus['result']>;

export interface Saving {
  /** False: it was only observed. */
  real: boolean;
  savedBytes: number;
  savedPercent: number;
  linkBytes: number | undefined;
  nasBytes: number | undefined;
  pages: Result['pages'];
}

/** Undefined when nothing was measured. */
export function savingOf(result: Result | undefined): Saving | undefined {
  if (result === undefined) return undefined;
  if (result.attempt === 'Observed') {
    const { estimate } = result;
    return estimate === undefined ? undefined : { real: false, ...estimate };
  }
  const { savedBytes, savedPercent = 0, linkBytes, nasBytes, pages } = result;
  return savedBytes === undefined
    ? undefined
    : { real: true, savedBytes, savedPercent, linkBytes, nasBytes, pages };
}
