// `kubectl nasmig doctor`: all checks, a line each, and what to do about those that are not well.
import { written } from '../output/objects.ts';
import { width } from '../output/table.ts';
import type { Verb, VerbContext } from '../verb.ts';
import { diagnose, type Finding } from './checks.ts';
import { gatherFacts } from './facts.ts';

export const doctor: Verb = {
  name: 'doctor',
  summary: 'check the cluster for what keeps migrations from being accelerated',
  description:
    'Looks at Kubernetes, KubeVirt, the operator, injection, storage, sidecars, network policies and settings, and says for each what is the case and what to do. ' +
    'It only reads. VMs of all namespaces, unless -n names one.',
  words: '',
  minWords: 0,
  maxWords: 0,
  flags: [
    {
      name: 'operator-namespace',
      value: 'NAMESPACE',
      meaning: 'where the operator is; else it is looked for by its labels',
    },
    { name: 'problems', meaning: 'only what is not well' },
  ],
  outputs: ['json', 'yaml'],
  without: ['selector', 'no-headers'],
  examples: [
    'kubectl nasmig doctor',
    'kubectl nasmig doctor -n shop --problems',
    'kubectl nasmig doctor -o json',
  ],
  async run(context) {
    const { api, flags, output, terminal, namespace, now } = context;
    const facts = await gatherFacts(
      api,
      {
        namespace: flags.has('namespace') ? namespace : undefined,
        operatorNamespace: flags.text('operator-namespace'),
      },
      now(),
    );
    const all = diagnose(facts);
    const shown = flags.is('problems') ? all.filter(({ status }) => status !== 'ok') : all;
    if (output === 'json' || output === 'yaml') terminal.write(written(shown, output));
    else terminal.write(`${[...lines(shown, context), summary(all)].join('\n')}\n`);
    return all.some(({ status }) => status === 'failed') ? 'unhealthy' : 'ok';
  },
};

const SIGNS: Record<Finding['status'], string> = {
  ok: 'ok',
  warning: 'warning',
  failed: 'FAILED',
  unknown: 'unknown',
};

/** A line for each finding, and one for its remedy. Pure. */
export function lines(
  findings: readonly Finding[],
  { terminal: { palette } }: Pick<VerbContext, 'terminal'>,
): string[] {
  const signWidth = Math.max(...Object.values(SIGNS).map(width));
  const nameWidth = Math.max(0, ...findings.map(({ check }) => width(check)));
  const colour = { ok: palette.good, warning: palette.warning, failed: palette.bad, unknown: palette.faint };
  return findings.flatMap(({ check, status, message, remedy }) => {
    const sign = SIGNS[status].padEnd(signWidth);
    const indent = ' '.repeat(signWidth + nameWidth + 4);
    return [
      `${colour[status](sign)}  ${check.padEnd(nameWidth)}  ${message}`,
      ...(remedy === undefined ? [] : [`${indent}${palette.faint('do:')} ${remedy}`]),
    ];
  });
}

function summary(findings: readonly Finding[]): string {
  const count = (status: Finding['status']) => findings.filter((finding) => finding.status === status).length;
  return `${count('ok')} ok, ${count('warning')} warnings, ${count('failed')} failed, ${count('unknown')} unknown`;
}
