// The verbs, in the order in which they are listed.
import { cancel } from './cancel/cancel.ts';
import { completion } from './completion/completion.ts';
import { doctor } from './doctor/doctor.ts';
import { estimate } from './estimate/estimate.ts';
import { explain } from './explain/explain.ts';
import { list } from './list/list.ts';
import { migrate } from './migrate/migrate.ts';
import { report } from './report/report.ts';
import { resume, suspend } from './suspend/suspend.ts';
import type { Verb } from './verb.ts';
import { version } from './version/version.ts';
import { watch } from './watch/watch.ts';

export const verbs: readonly Verb[] = [
  migrate,
  watch,
  list,
  explain,
  cancel,
  doctor,
  estimate,
  suspend,
  resume,
  report,
  completion,
  version,
];
