// What an OCI runtime (crun) is told of a container: confined as our pods' containers are, with a user that is not root, a read-only
// root, no capabilities, no new privileges, its own process and mount namespaces, and the network of whoever starts it. OCI runtime
// specification 1.0.
import path from 'node:path';

/**
 * crun refuses a machine where cgroup v1 and v2 share the controllers between them. Its cgroup is the caller's here, so it is
 * shown, in a mount namespace of its own, a machine without the v2 part; on other machines nothing is taken away.
 */
export const CRUN = [
  'unshare',
  '--mount',
  '--propagation',
  'private',
  'sh',
  '-c',
  'umount /sys/fs/cgroup/unified 2>/dev/null; exec crun --cgroup-manager=disabled "$@"',
  'crun',
] as const;

export interface BundleOptions {
  readonly rootfs: string;
  /** User and group. */
  readonly user: number;
  /** The whole command line. */
  readonly argv: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** Directories and files of the machine. */
  readonly mounts?: readonly { source: string; destination: string; writable?: boolean }[];
}

/** The content of a bundle's config.json. */
export function bundleConfiguration({ rootfs, user, argv, environment, mounts = [] }: BundleOptions): object {
  const none: string[] = [];
  return {
    ociVersion: '1.0.2',
    root: { path: path.resolve(rootfs), readonly: true },
    hostname: 'container',
    process: {
      user: { uid: user, gid: user },
      cwd: '/app',
      args: argv,
      env: Object.entries(environment).map(([name, value]) => `${name}=${value}`),
      noNewPrivileges: true,
      capabilities: { bounding: none, effective: none, inheritable: none, permitted: none, ambient: none },
    },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
      {
        destination: '/dev',
        type: 'tmpfs',
        source: 'tmpfs',
        options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
      },
      ...mounts.map(({ source, destination, writable }) => ({
        destination,
        type: 'bind',
        source,
        options: ['rbind', writable === true ? 'rw' : 'ro', 'nosuid', 'nodev', 'noexec'],
      })),
    ],
    linux: {
      namespaces: [{ type: 'pid' }, { type: 'mount' }, { type: 'ipc' }, { type: 'uts' }],
      maskedPaths: ['/proc/kcore', '/proc/keys', '/proc/timer_list'],
      readonlyPaths: ['/proc/sys', '/proc/sysrq-trigger', '/proc/irq', '/proc/bus'],
    },
  };
}
