// Which API server, as whom, in which namespace: the kubeconfig with kubectl's flags on top of it, in kubectl's order of precedence.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { type Cluster, KubeConfig, type User } from '@kubernetes/client-node';
import type { Flags } from '../command-line.ts';
import { PluginError } from '../errors.ts';

export interface Impersonation {
  user: string | undefined;
  groups: string[];
  uid: string | undefined;
  /** Name and value. */
  extra: (readonly [string, string])[];
}

export interface Access {
  config: KubeConfig;
  /** Where to look: undefined is all namespaces. */
  namespace: string | undefined;
  /** Where objects are made, and looked for by name. */
  defaultNamespace: string;
  server: string;
  impersonation: Impersonation;
  /** Undefined: the client's own. 0: without end. */
  requestTimeoutMs: number | undefined;
}

const SERVICE_ACCOUNT_TOKEN = '/var/run/secrets/kubernetes.io/serviceaccount/token';

/** Throws {@link PluginError}: exit `unreachable` when there is no cluster to speak to, `usage` for a name that is not there. */
export function accessFrom(flags: Flags, environment: NodeJS.ProcessEnv): Access {
  const config = kubeconfigOf(flags, environment);
  choose(config, flags);
  const cluster = config.getCurrentCluster();
  if (cluster === null || cluster.server === undefined)
    throw new PluginError(
      'unreachable',
      'no cluster is configured: the kubeconfig has no current context, or its cluster is missing',
      'Name one with --context (kubectl config get-contexts lists them), or give --server.',
    );
  const impersonation = {
    user: flags.text('as'),
    groups: flags.all('as-group'),
    uid: flags.text('as-uid'),
    extra: flags.each('as-user-extra').map(extraOf),
  };
  if (
    impersonation.user === undefined &&
    (impersonation.groups.length > 0 || impersonation.uid !== undefined || impersonation.extra.length > 0)
  )
    throw new PluginError(
      'usage',
      '--as-group, --as-uid and --as-user-extra need --as',
      'Say as which user, with --as.',
    );
  const context = config.getContextObject(config.getCurrentContext());
  const defaultNamespace = flags.text('namespace') ?? context?.namespace ?? 'default';
  return {
    config,
    namespace: flags.is('all-namespaces') ? undefined : defaultNamespace,
    defaultNamespace,
    server: cluster.server,
    impersonation,
    requestTimeoutMs:
      flags.text('request-timeout') === undefined ? undefined : flags.durationMs('request-timeout'),
  };
}

function extraOf(text: string): [string, string] {
  const equals = text.indexOf('=');
  if (equals < 1)
    throw new PluginError(
      'usage',
      `--as-user-extra ${text} is not KEY=VALUE`,
      'Write for example scopes=view.',
    );
  return [text.slice(0, equals), text.slice(equals + 1)];
}

/** `root`: where the file system of a pod begins, in tests. All files together, without the flags that choose in it. */
export function kubeconfigOf(flags: Flags, environment: NodeJS.ProcessEnv, root = ''): KubeConfig {
  const asked = flags.text('kubeconfig');
  // Several files are one configuration: the first that names a thing wins.
  const files =
    asked !== undefined
      ? [asked]
      : environment['KUBECONFIG'] !== undefined && environment['KUBECONFIG'] !== ''
        ? environment['KUBECONFIG'].split(path.delimiter).filter((file) => file !== '')
        : [path.join(environment['HOME'] ?? environment['USERPROFILE'] ?? '', '.kube', 'config')];
  const present = files.filter((file) => existsSync(file));
  if (asked !== undefined && present.length === 0)
    throw new PluginError('usage', `there is no kubeconfig ${asked}`, 'Check --kubeconfig.');
  const config = new KubeConfig();
  config.loadFromOptions({ clusters: [], users: [], contexts: [], currentContext: '' });
  // In a pod, and told nothing else: the pod's service account.
  if (
    asked === undefined &&
    present.length === 0 &&
    environment['KUBERNETES_SERVICE_HOST'] !== undefined &&
    existsSync(`${root}${SERVICE_ACCOUNT_TOKEN}`)
  )
    config.loadFromCluster(root);
  for (const [at, file] of present.entries()) {
    try {
      const one = new KubeConfig();
      // An empty file is a configuration without anything, as for kubectl.
      if (readFileSync(file, 'utf8').trim() === '') continue;
      one.loadFromFile(file, { onInvalidEntry: 'filter' });
      if (at === 0) config.loadFromOptions(one);
      else mergeInto(config, one);
    } catch (error) {
      throw new PluginError(
        'usage',
        `the kubeconfig ${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }
  return config;
}

function mergeInto(config: KubeConfig, other: KubeConfig): void {
  const without = <T extends { name: string }>(have: T[], more: T[]) => [
    ...have,
    ...more.filter(({ name }) => !have.some((one) => one.name === name)),
  ];
  config.loadFromOptions({
    clusters: without(config.getClusters(), other.getClusters()),
    users: without(config.getUsers(), other.getUsers()),
    contexts: without(config.getContexts(), other.getContexts()),
    currentContext: config.getCurrentContext() || other.getCurrentContext(),
  });
}

function choose(config: KubeConfig, flags: Flags): void {
  const contextName = flags.text('context') ?? config.getCurrentContext();
  const context = config.getContextObject(contextName);
  if (flags.has('context') && context === null)
    throw new PluginError(
      'usage',
      `the kubeconfig has no context ${contextName}`,
      `It has: ${
        config
          .getContexts()
          .map(({ name }) => name)
          .join(', ') || 'none'
      }.`,
    );
  const clusterName = flags.text('cluster') ?? context?.cluster;
  const userName = flags.text('user') ?? context?.user;
  const cluster = config.getClusters().find(({ name }) => name === clusterName);
  const user = config.getUsers().find(({ name }) => name === userName);
  if (flags.has('cluster') && cluster === undefined)
    throw new PluginError('usage', `the kubeconfig has no cluster ${clusterName}`);
  if (flags.has('user') && user === undefined)
    throw new PluginError('usage', `the kubeconfig has no user ${userName}`);
  const server = flags.text('server') ?? cluster?.server;
  if (server === undefined) return;
  if (!/^https?:\/\//.test(server))
    throw new PluginError(
      'usage',
      `--server ${server} is not an address`,
      'Write for example https://10.0.0.1:6443.',
    );
  const name = 'nasmig';
  config.loadFromOptions({
    clusters: [
      clusterWith(flags, { ...cluster, name, server, skipTLSVerify: cluster?.skipTLSVerify === true }),
    ],
    users: [userWith(flags, { ...user, name })],
    contexts: [
      {
        name,
        cluster: name,
        user: name,
        ...(context?.namespace === undefined ? {} : { namespace: context.namespace }),
      },
    ],
    currentContext: name,
  });
}

function clusterWith(flags: Flags, cluster: Cluster): Cluster {
  const changed: { -readonly [Key in keyof Cluster]: Cluster[Key] } = { ...cluster };
  const authority = flags.text('certificate-authority');
  if (authority !== undefined) {
    delete changed.caData;
    changed.caFile = readable(authority, 'certificate-authority');
  }
  const serverName = flags.text('tls-server-name');
  if (serverName !== undefined) changed.tlsServerName = serverName;
  if (flags.is('insecure-skip-tls-verify')) {
    changed.skipTLSVerify = true;
    delete changed.caData;
    delete changed.caFile;
  }
  // Without TLS there is nothing to verify; the client library wants it said.
  if (changed.server.startsWith('http:')) changed.skipTLSVerify = true;
  return changed;
}

function userWith(flags: Flags, user: User): User {
  const changed: { -readonly [Key in keyof User]: User[Key] } = { ...user };
  const token = flags.text('token');
  if (token !== undefined) {
    changed.token = token;
    delete changed.exec;
    delete changed.authProvider;
    delete changed.username;
    delete changed.password;
  }
  const username = flags.text('username');
  const password = flags.text('password');
  if (username !== undefined || password !== undefined) {
    if (username !== undefined) changed.username = username;
    if (password !== undefined) changed.password = password;
    if (token === undefined) delete changed.token;
    delete changed.exec;
    delete changed.authProvider;
  }
  const certificate = flags.text('client-certificate');
  if (certificate !== undefined) {
    delete changed.certData;
    changed.certFile = readable(certificate, 'client-certificate');
  }
  const key = flags.text('client-key');
  if (key !== undefined) {
    delete changed.keyData;
    changed.keyFile = readable(key, 'client-key');
  }
  return changed;
}

function readable(file: string, flag: string): string {
  if (!existsSync(file)) throw new PluginError('usage', `--${flag}: there is no file ${file}`);
  return path.resolve(file);
}
