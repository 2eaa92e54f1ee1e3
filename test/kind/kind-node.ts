// A node of a kind cluster, which is a container: programs run in it through the container engine, and in the network namespace of one
// of its pods by nsenter(1). Everything used is in kind's node image: crictl, nsenter, tc, ss, curl.
import { type ChildProcessWithoutNullStreams, execFile, spawn } from 'node:child_process';
import { promisify } from 'node:util';

const ENGINE = 'docker';
const EXEC_TIMEOUT_MS = 60_000;
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;

/** A program in a node failed. */
export class NodeCommandError extends Error {
  readonly code = 'NASMIG_KIND_NODE_COMMAND';
  constructor(node: string, argv: readonly string[], output: string) {
    super(`on node ${node}: ${argv.join(' ')}: ${output.trim()}`);
    this.name = 'NodeCommandError';
  }
}

export class KindNode {
  /** Also the container's name. */
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  /** Standard output. Throws {@link NodeCommandError}. */
  async run(argv: readonly string[]): Promise<string> {
    try {
      const { stdout } = await promisify(execFile)(ENGINE, ['exec', this.name, ...argv], {
        timeout: EXEC_TIMEOUT_MS,
        maxBuffer: MAX_OUTPUT_BYTES,
      });
      return stdout;
    } catch (error) {
      const { stderr = '', stdout = '' } = error as { stderr?: string; stdout?: string };
      throw new NodeCommandError(this.name, argv, `${stderr}${stdout}` || (error as Error).message);
    }
  }

  /** Starts a program with its standard streams here. Its end is the caller's business. */
  spawn(argv: readonly string[]): ChildProcessWithoutNullStreams {
    return spawn(ENGINE, ['exec', '--interactive', this.name, ...argv]);
  }

  /** Copies a file of this machine into the node. */
  async copy(from: string, to: string): Promise<void> {
    await promisify(execFile)(ENGINE, ['cp', '--follow-link', from, `${this.name}:${to}`], {
      timeout: EXEC_TIMEOUT_MS,
    });
  }

  /** Process of a container, in the node's PID namespace. `containerId` is the one of the pod's status. */
  async pidOf(containerId: string): Promise<number> {
    const text = await this.run([
      ...['crictl', 'inspect', '--output', 'go-template', '--template', '{{.info.pid}}'],
      containerId.replace(/^containerd:\/\//, ''),
    ]);
    const pid = Number.parseInt(text, 10);
    if (!(pid > 1)) throw new NodeCommandError(this.name, ['crictl', 'inspect', containerId], text);
    return pid;
  }

  /** A command as it is in the network namespace of a process. */
  static inNetworkOf(pid: number, argv: readonly string[]): string[] {
    return ['nsenter', `--net=/proc/${pid}/ns/net`, '--', ...argv];
  }

  async signal(pid: number, signal: NodeJS.Signals): Promise<void> {
    await this.run(['kill', `-${signal.replace(/^SIG/, '')}`, String(pid)]);
  }
}
