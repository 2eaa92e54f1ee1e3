// What a person or another program configures: the environments of sidecar and operator, the file and the key of a standalone
// sidecar, names in the directory of migration sockets. Everything is taken, or refused by name in a message of bounded length.
import { settingsFrom } from '../../../operator/settings.ts';
import { agentConfigFrom } from '../../../sidecar/agent/agent-config.ts';
import { recognizeLeaving, socketNames } from '../../../sidecar/interposer/socket-names.ts';
import { parseSessionKey, parseStandaloneConfig } from '../../../sidecar/standalone-config.ts';
import { mutateJson } from '../json-mutator.ts';
import { type FuzzTarget, must, type Random, refusalOf } from '../target.ts';

const lines = (values: Readonly<Record<string, string>>): Uint8Array =>
  Buffer.from(
    Object.entries(values)
      .map(([name, value]) => `${name}=${value}`)
      .join('\n'),
  );

function environmentOf(input: Uint8Array): Record<string, string> {
  const environment: Record<string, string> = {};
  for (const line of Buffer.from(input).toString('utf8').split('\n')) {
    const at = line.indexOf('=');
    if (at > 0) environment[line.slice(0, at)] = line.slice(at + 1);
  }
  return environment;
}

const VALUES: readonly string[] = [
  ...[
    '',
    ' ',
    '0',
    '-1',
    '1',
    '1.5',
    '1e3',
    '1e400',
    '65536',
    '99999',
    'NaN',
    'Infinity',
    '0x10',
    'true',
    'false',
  ],
  ...[
    '9007199254740993',
    'null',
    'http://a',
    'wss://',
    'wss://a:70000',
    'file:///',
    ',',
    ', ,a',
    'silent',
    '\u0000',
  ],
];

/** Another value for a variable, a variable less or twice, or values exchanged. */
function mutateEnvironment(input: Uint8Array, random: Random): Uint8Array {
  const all = Buffer.from(input).toString('utf8').split('\n');
  const below = (limit: number): number => Math.floor(random() * limit);
  for (let changes = 1 + below(3); changes > 0; changes--) {
    const at = below(all.length);
    const line = all[at] ?? '';
    const name = line.slice(0, line.indexOf('=') + 1);
    const way = random();
    if (way < 0.7) all[at] = name + (VALUES[below(VALUES.length)] ?? '');
    else if (way < 0.8) all.splice(at, 1);
    else if (way < 0.9) all[at] = `${line}${below(10)}`;
    else all.push(name + (all[below(all.length)] ?? '').split('=')[1]);
  }
  return Buffer.from(all.join('\n'));
}

const isCount = (value: number, least: number): boolean =>
  Number.isInteger(value) && value >= least && value <= Number.MAX_SAFE_INTEGER;

/** Environment of the injected container. */
export const sidecarEnvironment: FuzzTarget = {
  seeds: () => [
    lines({
      NASMIG_HUB_URL: 'wss://hub:8443',
      NASMIG_HUB_SERVER_NAME: 'hub',
      NASMIG_TOKEN_FILE: '/token',
      NASMIG_CA_FILE: '/ca.crt',
      NASMIG_POD_NAMESPACE: 'shop',
      NASMIG_POD_NAME: 'virt-launcher-db',
      NASMIG_POD_UID: 'u',
      NASMIG_VMI_NAME: 'db',
      NASMIG_VMI_UID: 'v',
      NASMIG_RUN_DIR: '/run',
      NASMIG_VOLUMES_DIR: '/volumes',
      NASMIG_LOG_LEVEL: 'debug',
      NASMIG_INDEX_MEMORY_BYTES: '1000',
      NASMIG_INDEX_BYTES_PER_SECOND: '5',
      NASMIG_INDEX_DELAY_MS: '0',
      NASMIG_INDEX_ONE_IN: '8',
    }),
  ],
  run: (input) => {
    try {
      const { hub, index, logLevel, socketDirectory } = agentConfigFrom(environmentOf(input));
      must(new URL(hub.url).protocol === 'wss:', () => `the hub is at ${hub.url}`);
      must(isCount(index.memoryBytes, 0) && isCount(index.delayMs, 0), () => `memory ${index.memoryBytes}`);
      must(isCount(index.bytesPerSecond, 1) && isCount(index.oneIn, 1), () => `one in ${index.oneIn}`);
      must(logLevel.length > 0 && socketDirectory.endsWith('migrationproxy'), () => socketDirectory);
      return 'taken';
    } catch (error) {
      return refusalOf(error);
    }
  },
  mutate: mutateEnvironment,
  maxInputBytes: 4096,
};

/** Environment of the operator. */
export const operatorEnvironment: FuzzTarget = {
  seeds: () => [
    lines({
      NASMIG_NAMESPACE: 'nasmig',
      NASMIG_SIDECAR_IMAGE: 'sidecar:1',
      NASMIG_HUB_URL: 'wss://hub:8443',
      NASMIG_HUB_PORT: '8443',
      NASMIG_SHARED_DRIVERS: 'nfs.csi.k8s.io, other',
      NASMIG_NAS_READ_PERMITS: '5',
      NASMIG_WORKERS: '8',
      NASMIG_LEASE_SECONDS: '15',
      NASMIG_INJECTION: 'false',
    }),
  ],
  run: (input) => {
    try {
      const settings = settingsFrom(environmentOf(input));
      must(isCount(settings.hubPort, 0) && settings.hubPort < 65_536, () => `port ${settings.hubPort}`);
      must(settings.workers >= 1 && settings.workers <= 64, () => `${settings.workers} workers`);
      must(isCount(settings.nasReadPermits, 0), () => `${settings.nasReadPermits} permits`);
      must(
        settings.lease.durationMs > settings.lease.renewDeadlineMs,
        () => 'a lease that cannot be renewed',
      );
      must(!settings.sharedFileSystemDrivers.includes(''), () => 'a driver without a name');
      return 'taken';
    } catch (error) {
      return refusalOf(error);
    }
  },
  mutate: mutateEnvironment,
  maxInputBytes: 4096,
};

/** Configuration of a standalone sidecar; the same bytes are tried as its key. */
export const standaloneConfiguration: FuzzTarget = {
  seeds: () => [
    Buffer.from('ab'.repeat(32)),
    Buffer.from(
      JSON.stringify({
        role: 'source',
        listen: 'a.sock',
        dial: 'b.sock',
        migrationId: '5b3c1f0e-9a7d-4c55-8d1e-0123456789ab',
        sessionKeyFile: 'key',
        volumes: [{ name: 'root', path: 'disk.img' }],
        index: { kind: 'sampled', oneIn: 8, bytesPerSecond: 0, budgetBytes: 1_000_000 },
      }),
    ),
  ],
  run: (input) => {
    const text = Buffer.from(input).toString('utf8');
    let answer = 'taken';
    try {
      must(parseSessionKey(text, 'key').length === 32, () => 'a key of another length');
    } catch (error) {
      answer = refusalOf(error);
      // A key that is nearly right must not be in the log.
      if (text.trim().length > 8)
        must(!(error as Error).message.includes(text.trim()), () => 'the key is in the message of an error');
    }
    try {
      const config = parseStandaloneConfig(text, 'c.json');
      must(config.volumes.length <= 64, () => `${config.volumes.length} volumes`);
      must(
        isCount(config.downtimeLimitMs, 1) && isCount(config.index.oneIn, 1),
        () => 'a count that is none',
      );
      return 'configuration';
    } catch (error) {
      refusalOf(error);
    }
    return answer;
  },
  mutate: mutateJson,
  maxInputBytes: 8192,
};

const UID = '6f1b7a52-2c9e-4f0a-9a53-0d5f1d3c8e11';

/** Names in a directory that virt-handler and QEMU write to, and a migration's UID from the hub. */
export const socketNamesTarget: FuzzTarget = {
  seeds: () =>
    [
      UID,
      `${UID}-49152-source.sock.orig`,
      `${UID}-49152-source.sock.nasmig`,
      '.nasmig-17',
      `${UID}-source.sock`,
    ].map((name) => Buffer.from(name)),
  run: (input) => {
    const name = Buffer.from(input).toString('latin1');
    const leaving = recognizeLeaving(name);
    if (leaving?.kind === 'swap') {
      const names = socketNames(leaving.migrationUid);
      must(name === names.original || name === names.mark, () => `${JSON.stringify(name)} is taken for ours`);
    }
    try {
      for (const one of Object.values(socketNames(name)))
        must(!one.includes('/') && !one.includes('\0') && one.startsWith(name), () => `a path: ${one}`);
      return 'a UID';
    } catch (error) {
      refusalOf(error);
      return leaving?.kind ?? 'not ours';
    }
  },
  maxInputBytes: 300,
};
