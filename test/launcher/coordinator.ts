// A coordinator for tests without an operator: the operator's own hub and coordinator over real TLS, WebSocket and bearer
// tokens; only the API server's review of tokens is played. It listens on loopback in this process, and on a unix socket
// that LauncherLab.exposeHub() passes on to the pods.

import { randomUUID } from 'node:crypto';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DEFAULT_DOWNTIME_LIMIT_MS } from '../../control/limits.ts';
import type { Arm, ArmMode, Hello, IndexStatus, Result, Role } from '../../control/messages.ts';
import {
  createAuthority,
  issueCertificate,
  type KeyAndCertificate,
} from '../../operator/certificates/x509.ts';
import type { PodIdentity } from '../../operator/hub/authenticator.ts';
import { type CoordinationView, Coordinator } from '../../operator/hub/coordinator.ts';
import { Hub } from '../../operator/hub/hub.ts';
import { recordControl } from './control-recording.ts';

/** The name in the hub's certificate; sidecars in the lab dial an address and are told this name. */
export const HUB_SERVER_NAME = 'hub.lab';
const DAY_MS = 24 * 3_600_000;
const POLL_MS = 10;

/** A pod whose sidecar may connect. */
export interface CoordinatedPod {
  readonly identity: PodIdentity;
  /** Directory with `token` and `ca.crt`, to be bound into the sidecar. */
  readonly credentials: string;
}

export interface CoordinatedMigration {
  readonly migrationUid: string;
  readonly source: CoordinatedPod;
  readonly target: CoordinatedPod;
  /** Pod volume names. */
  readonly volumes: readonly string[];
  readonly mode?: ArmMode;
  readonly downtimeLimitMs?: number;
  readonly limits?: Arm['limits'];
  /** The migration has ended already. */
  readonly over?: boolean;
}

/** What was awaited of a migration did not come. */
export class CoordinationTimeoutError extends Error {
  readonly code = 'NASMIG_LAB_COORDINATION';
  constructor(
    what: string,
    timeoutMs: number,
    view: CoordinationView | undefined,
    problems: readonly string[],
  ) {
    super(
      `no ${what} within ${timeoutMs} ms; the coordination stands at ${JSON.stringify(view)}, ` +
        `refused or odd: ${problems.join('; ') || 'nothing'}; see the sidecars' logs in the run's directory`,
    );
    this.name = 'CoordinationTimeoutError';
  }
}

/** HOLDING of one migration, kept back. */
export class HeldGo {
  /** Resolves when the source has said HOLDING. */
  readonly holding: Promise<void>;
  #tell = (): void => undefined;
  #pass: (() => void) | undefined;
  #released = false;

  constructor() {
    this.holding = new Promise((resolve) => {
      this.#tell = resolve;
    });
  }

  catchUp(pass: () => void): void {
    this.#tell();
    if (this.#released) pass();
    else this.#pass = pass;
  }

  /** Lets the coordinator go on. */
  release(): void {
    this.#released = true;
    this.#pass?.();
    this.#pass = undefined;
  }
}

export class LabCoordinator {
  /** What the hub refused and what the coordinator found odd. */
  readonly problems: string[] = [];
  readonly #hub: Hub;
  readonly #coordinator: Coordinator;
  readonly #door: Server;
  readonly #visitors = new Set<Socket>();
  readonly #directory: string;
  readonly #authority: KeyAndCertificate;
  readonly #identities: Map<string, PodIdentity>;
  readonly #armed: ReadonlySet<string>;
  readonly #holds: Map<string, HeldGo>;

  private constructor(
    directory: string,
    authority: KeyAndCertificate,
    identities: Map<string, PodIdentity>,
    heard: { readonly armed: ReadonlySet<string>; readonly holds: Map<string, HeldGo> },
    make: (problem: (text: string) => void) => { hub: Hub; coordinator: Coordinator },
  ) {
    this.#directory = directory;
    this.#authority = authority;
    this.#identities = identities;
    this.#armed = heard.armed;
    this.#holds = heard.holds;
    const { hub, coordinator } = make((text) => this.problems.push(text));
    this.#hub = hub;
    this.#coordinator = coordinator;
    this.port = hub.port;
    this.#door = createServer({ allowHalfOpen: true }, (visitor) => this.#letIn(visitor));
  }

  /**
   * @param directory of the run, for the socket `hub.sock` and the pods' credentials.
   * @param options.after a coordinator that was stopped: this one has its address, its CA and its pods, and a later epoch.
   */
  static async start(directory: string, options: { after?: LabCoordinator } = {}): Promise<LabCoordinator> {
    const { after } = options;
    await mkdir(directory, { recursive: true });
    const notBefore = new Date(Date.now() - DAY_MS);
    const notAfter = new Date(Date.now() + DAY_MS);
    const authority =
      after === undefined ? createAuthority('nasmig lab', notBefore, notAfter) : after.#authority;
    const certificate = issueCertificate(authority, {
      ...{ commonName: HUB_SERVER_NAME, hosts: [HUB_SERVER_NAME], usages: ['server'] },
      ...{ notBefore, notAfter },
    });
    const identities = after === undefined ? new Map<string, PodIdentity>() : after.#identities;
    const epoch = (after?.epoch ?? 0) + 1;
    let tell = (_text: string): void => {};
    const coordinator = new Coordinator({
      epoch,
      onChange: () => {},
      onStats: () => {},
      isRecorded: () => false,
      onProblem: (problem, session) => tell(`${session.identity.podName}: ${problem}`),
    });
    const armed = new Set<string>();
    const holds = new Map<string, HeldGo>();
    const listener = recordControl({
      onSession: (session) => coordinator.onSession(session),
      onMessage: (session, message) => {
        if (message.type === 'armed') armed.add(`${message.migrationUid} ${message.role}`);
        const hold = message.type === 'holding' ? holds.get(message.migrationUid) : undefined;
        if (hold === undefined) coordinator.onMessage(session, message);
        else hold.catchUp(() => coordinator.onMessage(session, message));
      },
      onSessionEnded: (session) => coordinator.onSessionEnded(session),
    });
    const hub = await Hub.start({
      ...{
        host: '127.0.0.1',
        port: after?.port ?? 0,
        certificate,
        listener,
        release: '0.1.0',
        epoch,
      },
      authenticator: {
        authenticate: (token) => {
          const identity = identities.get(token);
          return Promise.resolve(identity === undefined ? { refused: 'unknown token' } : { identity });
        },
      },
      recorded: () => [],
      onRefused: (reason, detail) => tell(`refused (${reason}): ${detail}`),
    });
    const made = new LabCoordinator(directory, authority, identities, { armed, holds }, (problem) => {
      tell = problem;
      return { hub, coordinator };
    });
    await new Promise<void>((resolve, reject) => {
      made.#door.once('error', reject);
      made.#door.listen(made.socket, resolve);
    });
    return made;
  }

  /** Where LauncherLab.exposeHub() is to connect. */
  get socket(): string {
    return join(this.#directory, 'hub.sock');
  }

  /** Port on loopback, for sidecars that run beside this process. */
  readonly port: number;

  get epoch(): number {
    return this.#coordinator.epoch;
  }

  /** A pod that may connect from now on. */
  async admit(podName: string): Promise<CoordinatedPod> {
    const identity: PodIdentity = { namespace: 'lab', podName, podUid: randomUUID() };
    const token = `token-of-${identity.podUid}`;
    const credentials = join(this.#directory, identity.podUid);
    await mkdir(credentials);
    await writeFile(join(credentials, 'token'), `${token}\n`);
    await writeFile(join(credentials, 'ca.crt'), this.#authority.certificatePem);
    await chmod(credentials, 0o755);
    this.#identities.set(token, identity);
    return { identity, credentials };
  }

  /** Begins to arm both sides; with `over`, only collects their results. */
  coordinate(migration: CoordinatedMigration): void {
    this.#coordinator.coordinate({
      migrationUid: migration.migrationUid,
      mode: migration.mode ?? 'accelerate',
      downtimeLimitMs: migration.downtimeLimitMs ?? DEFAULT_DOWNTIME_LIMIT_MS,
      volumes: [...migration.volumes],
      limits: migration.limits ?? {},
      over: migration.over ?? false,
      sourcePodUid: migration.source.identity.podUid,
      targetPodUid: migration.target.identity.podUid,
    });
  }

  view(migrationUid: string): CoordinationView | undefined {
    return this.#coordinator.view(migrationUid);
  }

  /** Both sides have said ARMED of this migration, whatever became of it since. */
  bothArmed(migrationUid: string): boolean {
    return this.#armed.has(`${migrationUid} source`) && this.#armed.has(`${migrationUid} target`);
  }

  /** From now on the source's HOLDING is kept from the coordinator: a slow one, that says GO only when it is released. */
  holdGo(migrationUid: string): HeldGo {
    const held = new HeldGo();
    this.#holds.set(migrationUid, held);
    return held;
  }

  /** GO once more, whatever is decided: one that was late on its way. */
  sayGo(migrationUid: string, source: CoordinatedPod): void {
    const { epoch } = this;
    this.#hub.sessionOf(source.identity.podUid)?.send({ type: 'go', migrationUid, epoch, role: 'source' });
  }

  isConnected(pod: CoordinatedPod): boolean {
    return this.#hub.sessionOf(pod.identity.podUid) !== undefined;
  }

  /** Waits until a pod's sidecar has said HELLO. */
  async waitForConnection(pod: CoordinatedPod, timeoutMs = 20_000): Promise<void> {
    await this.#waitFor(`connection of ${pod.identity.podName}`, undefined, timeoutMs, () =>
      this.isConnected(pod) ? true : undefined,
    );
  }

  /** The latest HELLO of a pod that is connected. */
  helloOf(pod: CoordinatedPod): Hello | undefined {
    return this.#hub.sessionOf(pod.identity.podUid)?.hello;
  }

  /** What a connected pod said last of its index. */
  indexOf(pod: CoordinatedPod): IndexStatus | undefined {
    return this.#coordinator.index(pod.identity.podUid);
  }

  /** Waits for the result of one side. */
  waitForResult(migrationUid: string, role: Role, timeoutMs = 10_000): Promise<Result> {
    return this.#waitFor(
      `result of the ${role}`,
      migrationUid,
      timeoutMs,
      () => this.view(migrationUid)?.results[role],
    );
  }

  /** As the operator does when the status is written: sidecars forget their results. */
  record(migrationUid: string): void {
    this.#coordinator.recorded(migrationUid);
  }

  /** Ends the hub, as when the operator is gone. */
  async stop(): Promise<void> {
    for (const visitor of this.#visitors) visitor.destroy();
    await new Promise<void>((resolve) => this.#door.close(() => resolve()));
    await this.#hub.stop();
  }

  async #waitFor<T>(
    what: string,
    migrationUid: string | undefined,
    timeoutMs: number,
    look: () => T | undefined,
  ): Promise<T> {
    const deadlineMs = Date.now() + timeoutMs;
    for (;;) {
      const found = look();
      if (found !== undefined) return found;
      if (Date.now() > deadlineMs) {
        const view = migrationUid === undefined ? undefined : this.view(migrationUid);
        throw new CoordinationTimeoutError(what, timeoutMs, view, this.problems);
      }
      await sleep(POLL_MS);
    }
  }

  #letIn(visitor: Socket): void {
    const inner = connect({ port: this.port, host: '127.0.0.1', allowHalfOpen: true });
    for (const [from, to] of [
      [visitor, inner],
      [inner, visitor],
    ] as const) {
      this.#visitors.add(from);
      from.on('error', () => to.destroy());
      from.on('close', () => {
        this.#visitors.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
  }
}
