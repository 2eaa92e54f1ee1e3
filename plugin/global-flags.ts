// kubectl's own flags, with kubectl's names and meanings, for every verb.
import type { Flag } from './command-line.ts';

export const outputFormats = ['json', 'yaml', 'wide', 'name'] as const;
export type OutputFormat = (typeof outputFormats)[number];

/** Flags of kubectl that people have in aliases and scripts. */
const WITHOUT_EFFECT = 'taken as by kubectl, without effect';

export const globalFlags: readonly Flag[] = [
  {
    name: 'namespace',
    short: 'n',
    value: 'NAMESPACE',
    meaning: 'the namespace; else that of the context, else default',
  },
  { name: 'all-namespaces', short: 'A', meaning: 'all namespaces; wins over -n' },
  {
    name: 'output',
    short: 'o',
    value: 'FORMAT',
    choices: outputFormats,
    meaning: 'how to write what was found',
  },
  {
    name: 'selector',
    short: 'l',
    value: 'SELECTOR',
    meaning: 'only objects with these labels, for example app=db,tier!=test',
  },
  { name: 'kubeconfig', value: 'FILE', meaning: 'the kubeconfig; else $KUBECONFIG, else ~/.kube/config' },
  { name: 'context', value: 'NAME', meaning: 'the context of the kubeconfig to use' },
  { name: 'cluster', value: 'NAME', meaning: 'the cluster of the kubeconfig to use' },
  { name: 'user', value: 'NAME', meaning: 'the user of the kubeconfig to use' },
  { name: 'server', short: 's', value: 'URL', meaning: 'address of the API server' },
  { name: 'token', value: 'TOKEN', meaning: 'bearer token for the API server' },
  { name: 'username', value: 'NAME', meaning: 'user name for basic authentication to the API server' },
  { name: 'password', value: 'PASSWORD', meaning: 'its password' },
  { name: 'certificate-authority', value: 'FILE', meaning: "the CA of the API server's certificate" },
  { name: 'client-certificate', value: 'FILE', meaning: 'client certificate for the API server' },
  { name: 'client-key', value: 'FILE', meaning: 'its key' },
  { name: 'insecure-skip-tls-verify', meaning: "do not check the API server's certificate: not secure" },
  { name: 'tls-server-name', value: 'NAME', meaning: "the name to check the API server's certificate for" },
  { name: 'as', value: 'USER', meaning: 'act as this user' },
  {
    name: 'as-group',
    value: 'GROUP',
    repeated: true,
    meaning: 'act as a member of this group; may be repeated',
  },
  { name: 'as-uid', value: 'UID', meaning: 'act as the user with this UID' },
  {
    name: 'as-user-extra',
    value: 'KEY=VALUE',
    repeated: true,
    meaning: 'act as the user with this extra; may be repeated',
  },
  {
    name: 'request-timeout',
    value: 'TIME',
    meaning: 'how long to wait for one answer, for example 10s; 0 is without end; default 30s',
  },
  { name: 'no-headers', meaning: 'tables without their first line' },
  { name: 'cache-dir', value: 'DIR', meaning: `${WITHOUT_EFFECT}: nothing is cached` },
  { name: 'disable-compression', meaning: `${WITHOUT_EFFECT}: answers are not compressed` },
  { name: 'v', short: 'v', value: 'LEVEL', meaning: `${WITHOUT_EFFECT}: there is no log` },
  { name: 'help', short: 'h', meaning: 'this text' },
];
