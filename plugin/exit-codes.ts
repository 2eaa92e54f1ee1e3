// What the plugin's exit code says: one number for each thing that a script would do something else about. Documented in
// docs/kubectl-plugin.md; a number, once released, keeps its meaning.
export const exitCodes = {
  ok: { code: 0, meaning: 'Done. For `doctor`: nothing failed.' },
  failed: { code: 1, meaning: 'Something that has no code of its own; the message says what.' },
  usage: {
    code: 2,
    meaning:
      'A flag, an argument or a value is wrong. Nothing was asked of the cluster, or it refused the value.',
  },
  notFound: { code: 3, meaning: 'There is no such VMI, migration, policy or namespace.' },
  notInstalled: { code: 4, meaning: 'KubeVirt or nas-aware-migration is not installed in this cluster.' },
  forbidden: { code: 5, meaning: 'The API server knows you not, or does not let you.' },
  unreachable: { code: 6, meaning: 'No answer from the API server, or no cluster is configured.' },
  conflict: {
    code: 7,
    meaning: 'A migration is under way already, or several objects fit and one has to be named.',
  },
  migrationFailed: { code: 8, meaning: 'The migration that was waited for failed or was cancelled.' },
  timedOut: { code: 9, meaning: 'The time of `--timeout` is over; what was waited for may still happen.' },
  unhealthy: { code: 10, meaning: '`doctor` found something that keeps migrations from being accelerated.' },
  interrupted: { code: 130, meaning: 'Ctrl-C.' },
} as const;

export type Exit = keyof typeof exitCodes;

export function exitCode(exit: Exit): number {
  return exitCodes[exit].code;
}
