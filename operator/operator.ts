// The operator as one object that can be started and stopped, in a cluster by main.ts and in tests directly. Every replica
// keeps caches and answers the webhook; the leader alone runs hub, controller and adoption, within one term of its lease.
import { randomBytes, X509Certificate } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type Logger, pino } from 'pino';
import type { NasAwareMigrationStatus } from '../crds/nas-aware-migration.ts';
import { type AuthorityBundle, AuthorityStore, isDue, issueServing } from './certificates/authority.ts';
import { type MountedCertificate, readMountedCertificate } from './certificates/mounted-certificate.ts';
import type { KeyAndCertificate } from './certificates/x509.ts';
import { Adoption } from './controller/adoption.ts';
import { recentFailures } from './controller/attempts.ts';
import { clusterBreaker } from './controller/breaker.ts';
import { byPodUid, type Caches, createCaches, startCaches, stopCaches } from './controller/caches.ts';
import { Claims } from './controller/claims.ts';
import type { DocumentedReason } from './controller/conditions.ts';
import { Controller } from './controller/controller.ts';
import { type Policy, readPolicy, selectPolicy } from './controller/policies.ts';
import { PolicyStatusWriter } from './controller/policy-status.ts';
import { TokenReviewAuthenticator } from './hub/authenticator.ts';
import { Coordinator } from './hub/coordinator.ts';
import { Hub, type Session } from './hub/hub.ts';
import { SidecarConfiguration } from './hub/sidecar-configuration.ts';
import { AuthorityPublisher } from './injection/authority-publisher.ts';
import { InjectionStops } from './injection/injection-stops.ts';
import { clusterVersionProblem } from './injection/kubernetes-version.ts';
import { register, unregister } from './injection/registration.ts';
import { WebhookServer } from './injection/webhook-server.ts';
import type { ApiAccess } from './kubernetes/api-access.ts';
import { ApiClient } from './kubernetes/api-client.ts';
import { pause } from './kubernetes/informer.ts';
import { controllingVmi } from './kubevirt/launcher-pod.ts';
import { LeaderElection } from './leader/leader-election.ts';
import { LeaderLabel } from './leader/leader-label.ts';
import { countActive, OperatorMetrics } from './metrics/metrics.ts';
import { MetricsServer } from './metrics/metrics-server.ts';
import type { OperatorSettings } from './settings.ts';

export const LEASE_NAME = 'nas-aware-migration';
export const AUTHORITY_SECRET = 'nas-aware-migration-authority';
export const AUTHORITY_CONFIG_MAP = 'nas-aware-migration-ca';
export const WEBHOOK_CONFIGURATION = 'nas-aware-migration';

const HUB_SERVICE = 'nas-aware-migration-hub';

export class Operator {
  readonly metrics = new OperatorMetrics();
  readonly #settings: OperatorSettings;
  readonly #log: Logger;
  readonly #api: ApiClient;
  readonly #caches: Caches;
  readonly #claims: Claims;
  readonly #election: LeaderElection;
  readonly #leaderLabel: LeaderLabel;
  readonly #stopping = new AbortController();
  #authority: AuthorityBundle | undefined;
  #serving: KeyAndCertificate | undefined;
  #servingSigner: KeyAndCertificate | undefined;
  /** From cert-manager, when the webhook's certificate is not ours. */
  #mounted: MountedCertificate | undefined;
  #webhook: WebhookServer | undefined;
  #metricsServer: MetricsServer | undefined;
  #hub: Hub | undefined;
  #controller: Controller | undefined;
  #coordinator: Coordinator | undefined;
  readonly #stops: InjectionStops;
  /** Why the webhook is not registered. */
  #injectionProblem: { reason: DocumentedReason; message: string } | undefined;
  #ready = false;
  #certificates: Promise<void> | undefined;
  #publisher: AuthorityPublisher | undefined;

  private constructor(config: ApiAccess, settings: OperatorSettings, log: Logger) {
    this.#settings = settings;
    this.#log = log;
    this.#api = new ApiClient(config, {
      userAgent: `nas-aware-migration/${settings.release}`,
      onRequest: (method, resource, status) =>
        this.metrics.apiRequests.inc({ method, resource, status: String(status) }),
    });
    this.#caches = createCaches(this.#api, (problem) =>
      log.warn({ problem }, 'watching the API server failed, it is tried again'),
    );
    this.#claims = new Claims(this.#caches);
    this.#election = new LeaderElection({
      api: this.#api,
      namespace: settings.namespace,
      name: LEASE_NAME,
      identity: `${settings.podName}-${randomBytes(4).toString('hex')}`,
      leaseDurationMs: settings.lease.durationMs,
      renewDeadlineMs: settings.lease.renewDeadlineMs,
      retryMs: settings.lease.retryMs,
      onProblem: (problem) => log.warn({ problem }, 'leader election'),
    });
    this.#leaderLabel = new LeaderLabel({
      api: this.#api,
      namespace: settings.namespace,
      podName: settings.podName,
      onProblem: (problem) => log.warn({ problem }, 'leader label'),
    });
    this.#stops = new InjectionStops({
      isInjected: (namespace, labels) => this.#policyFor(namespace, labels)?.spec.injection === 'Enabled',
      onStop: ({ namespace, why }) =>
        log.warn({ namespace, why }, 'a pod with a sidecar was refused; injection stops in its namespace'),
    });
    this.#stops.watch(this.#caches);
    this.metrics.sources = {
      hubConnections: () => this.#hub?.sessionCount ?? 0,
      isLeader: () => this.#hub !== undefined,
      queueDepth: () => this.#controller?.queue.depth ?? 0,
      activeMigrations: () => countActive(this.#controller === undefined ? [] : this.#phases()),
      coordinatedMigrations: () => this.#coordinator?.runningCount ?? 0,
      certificateExpirySeconds: () =>
        this.#serving === undefined
          ? 0
          : Math.min(
              ...[this.#serving, this.#mounted ?? this.#serving].map(
                ({ certificatePem }) => new X509Certificate(certificatePem).validToDate.getTime() / 1000,
              ),
            ),
      permitsHeld: () => this.#controller?.permits.heldCount ?? 0,
      permitsWaiting: () => this.#controller?.permits.waitingCount ?? 0,
      permitLimit: () => settings.nasReadPermits,
      clusterBreakerOpen: () => {
        const nowMs = Date.now();
        return clusterBreaker(recentFailures(this.#caches.migrations, nowMs), nowMs) !== undefined;
      },
      injectionRegistered: () => this.#webhook !== undefined && this.#injectionProblem === undefined,
      injectionStoppedNamespaces: () => this.#stops.stopped().length,
      nodeOfPod: (podUid) => this.#caches.pods.find(byPodUid, podUid)[0]?.spec?.nodeName,
    };
  }

  /** Starts, and returns when caches are filled and the webhook answers. Leadership may come later. */
  static async start(
    config: ApiAccess,
    settings: OperatorSettings,
    log = pino({ level: settings.logLevel }),
  ): Promise<Operator> {
    const operator = new Operator(config, settings, log);
    try {
      await operator.#start();
    } catch (error) {
      await operator.stop();
      throw error;
    }
    return operator;
  }

  /** Port of the hub while this replica leads. */
  get hubPort(): number | undefined {
    return this.#hub?.port;
  }

  get webhookPort(): number | undefined {
    return this.#webhook?.port;
  }

  get metricsPort(): number | undefined {
    return this.#metricsServer?.port;
  }

  /** PEM certificates that the hub's and the webhook's certificate chain to. */
  get authorityPem(): string {
    return this.#authority?.bundlePem ?? '';
  }

  /**
   * Gives the lease back and ends everything; what is under way is finished first.
   * @param lingerMs how long the webhook still answers: until every node knows that this pod's endpoint is gone.
   */
  async stop({ lingerMs = 0 }: { lingerMs?: number } = {}): Promise<void> {
    this.#ready = false;
    this.#stopping.abort();
    const lingering = this.#webhook === undefined ? undefined : delay(lingerMs);
    await this.#election.stop();
    await lingering;
    await this.#webhook?.stop();
    await this.#metricsServer?.stop();
    await this.#certificates;
    this.#stops.stop();
    await stopCaches(this.#caches);
    this.#api.close();
  }

  async #start(): Promise<void> {
    const settings = this.#settings;
    this.#metricsServer = await MetricsServer.start(
      settings.listenHost,
      settings.metricsPort,
      this.metrics.registry,
      () => this.#ready,
    );
    const store = new AuthorityStore({
      api: this.#api,
      namespace: settings.namespace,
      secretName: AUTHORITY_SECRET,
      signAfterMs: settings.certificates.signAfterMs,
    });
    await this.#renewCertificates(store);
    await this.#readMountedCertificate();
    await startCaches(this.#caches);
    if (settings.injection) await this.#startInjection();
    else
      this.#injectionProblem = {
        reason: 'InjectionOff',
        message: 'the operator runs with NASMIG_INJECTION=false',
      };
    // An earlier container of this pod may have led.
    await this.#leaderLabel.release();
    this.#ready = true;
    this.#certificates = this.#keepCertificates(store);
    this.#election.start((epoch, signal) => this.#lead(epoch, signal));
  }

  async #startInjection(): Promise<void> {
    const settings = this.#settings;
    const serving = this.#serving;
    if (serving === undefined) throw new TypeError('certificates are made before injection starts');
    const sharedDrivers = new Set(settings.sharedFileSystemDrivers);
    this.#webhook = await WebhookServer.start({
      host: settings.listenHost,
      port: settings.webhookPort,
      certificate: this.#mounted ?? serving,
      context: {
        kubevirtUser: settings.kubevirtUser,
        isStopped: (namespace, pod) => {
          this.#stops.onAsked(namespace, pod);
          return this.#stops.isStopped(namespace);
        },
        onInjected: (pod) => this.#stops.onInjected(pod),
        policyFor: (namespace, labels) => this.#policyFor(namespace, labels),
        notShared: (namespace, claim) => this.#claims.notShared(namespace, claim, sharedDrivers),
        settings: {
          ...settings.sidecar,
          hubUrl: settings.hubUrl,
          caConfigMap: AUTHORITY_CONFIG_MAP,
          logLevel: settings.logLevel === 'silent' ? 'error' : settings.logLevel,
        },
      },
      onDecision: (decision, seconds) => {
        this.metrics.webhookDecisions.inc({ decision });
        this.metrics.webhookDuration.observe(seconds);
      },
    });
    const problem = await clusterVersionProblem(this.#api);
    if (problem !== undefined) {
      this.#injectionProblem = { reason: 'KubernetesTooOld', message: problem };
      this.#log.error({ problem }, 'the webhook is not registered');
      return;
    }
    await this.#registerWebhook();
  }

  *#phases(): Generator<string | undefined> {
    for (const { status } of this.#caches.migrations.values())
      yield (status as NasAwareMigrationStatus | undefined)?.phase;
  }

  /** By the labels that the VM has now; its pod has those of when it was made. */
  #policyOfPod(namespace: string, podName: string): Policy | undefined {
    const pod = this.#caches.pods.get(`${namespace}/${podName}`);
    const owner = pod === undefined ? undefined : controllingVmi(pod);
    const vmi = owner === undefined ? undefined : this.#caches.vmis.get(`${namespace}/${owner.name}`);
    return this.#policyFor(namespace, vmi?.metadata?.labels ?? pod?.metadata?.labels ?? {});
  }

  #policyFor(namespace: string, labels: Readonly<Record<string, string>>): Policy | undefined {
    return selectPolicy(
      [...this.#caches.policies.values()].flatMap((policy) => readPolicy(policy) ?? []),
      labels,
      this.#caches.namespaces.get(namespace)?.metadata?.labels ?? {},
    )?.policy;
  }

  async #registerWebhook(): Promise<void> {
    if (this.#webhook === undefined || this.#injectionProblem !== undefined) return;
    const { namespace, webhookUrl, webhookService } = this.#settings;
    await register(this.#api, {
      name: WEBHOOK_CONFIGURATION,
      address:
        webhookUrl === undefined
          ? { service: { namespace, name: webhookService, port: 443 } }
          : { url: webhookUrl.replace(/:0(?=\/|$)/, `:${this.#webhook.port}`) },
      bundlePem: this.#mounted?.authorityPem ?? this.authorityPem,
      ownNamespace: namespace,
    });
  }

  /** One term: hub, controller and adoption from scratch, because what a deposed leader knew is worth nothing. */
  async #lead(epoch: number, signal: AbortSignal): Promise<void> {
    const settings = this.#settings;
    const log = this.#log.child({ epoch });
    const caches = this.#caches;
    const serving = this.#serving;
    if (serving === undefined) return;
    log.info('leading');
    let controller: Controller | undefined;
    const coordinator = new Coordinator({
      epoch,
      onChange: (migrationUid) => controller?.migrationChanged(migrationUid),
      onStats: (session, stats) => {
        this.metrics.fleet.told(session.identity.podUid, stats);
        podChanged(session);
      },
      isRecorded: (migrationUid) => controller?.isRecorded(migrationUid) === true,
      onProblem: (problem, { identity }) => log.warn({ problem, ...identity }, 'a sidecar overstepped'),
    });
    const podChanged = ({ identity }: Session) =>
      controller?.podChanged(identity.namespace, identity.podName);
    controller = new Controller({
      api: this.#api,
      caches,
      claims: this.#claims,
      coordinator,
      log,
      sharedFileSystemDrivers: new Set(settings.sharedFileSystemDrivers),
      workers: settings.workers,
      nasReadPermits: settings.nasReadPermits,
      onReconcile: (waitSeconds, workSeconds, failed) => {
        this.metrics.queueWait.observe(waitSeconds);
        this.metrics.reconcileDuration.observe({ outcome: failed ? 'error' : 'ok' }, workSeconds);
      },
      onFinished: (migration, status) => {
        this.metrics.finished(status);
        this.metrics.running.ended(migration);
      },
      onRunning: (migration, progress) => {
        const { namespace, name, spec } = migration;
        this.metrics.running.running({ namespace, name, vmi: spec.vmiName }, progress);
      },
      onGone: (migration) => this.metrics.running.ended(migration),
      onArmed: (seconds) => this.metrics.arming.observe(seconds),
    });
    const adoption = new Adoption({ api: this.#api, caches, log });
    const configuration = new SidecarConfiguration(({ namespace, podName }) =>
      this.#policyOfPod(namespace, podName),
    );
    const policiesWatched = [
      caches.policies.onChange(() => configuration.policiesChanged()),
      caches.namespaces.onChange(() => configuration.policiesChanged()),
    ];
    const hub = await Hub.start({
      host: settings.listenHost,
      port: settings.hubPort,
      certificate: serving,
      authenticator: new TokenReviewAuthenticator(this.#api),
      release: settings.release,
      epoch,
      listener: {
        onSession: (session) => {
          this.metrics.fleet.connected(session.identity.podUid, session.hello.index);
          configuration.connected(session);
          coordinator.onSession(session);
          podChanged(session);
        },
        onSessionEnded: (session) => {
          configuration.ended(session);
          coordinator.onSessionEnded(session);
          if (coordinator.session(session.identity.podUid) === undefined)
            this.metrics.fleet.ended(session.identity.podUid);
          podChanged(session);
        },
        onMessage: (session, message) => coordinator.onMessage(session, message),
      },
      recorded: ({ migrations }) =>
        migrations
          .filter(
            ({ phase, migrationUid }) =>
              phase === 'finished' && controller?.isRecorded(migrationUid) === true,
          )
          .map(({ migrationUid }) => migrationUid),
      onRefused: (reason, detail) => {
        this.metrics.hubRefusals.inc({ reason });
        log.debug({ reason, detail }, 'connection refused');
      },
    });
    this.#hub = hub;
    this.#controller = controller;
    this.#coordinator = coordinator;
    const publisher = new AuthorityPublisher({
      api: this.#api,
      caches,
      log,
      configMap: AUTHORITY_CONFIG_MAP,
      bundlePem: () => this.authorityPem,
    });
    this.#publisher = publisher;
    publisher.publishAll();
    const policyStatus = new PolicyStatusWriter({
      api: this.#api,
      caches,
      log,
      injection: () => ({ injectionProblem: this.#injectionProblem, stopped: this.#stops.stopped() }),
    });
    controller.addAll();
    adoption.addAll();
    // Last, when everything is there that sidecars may ask for; taken off at once when the term ends.
    const labelled = this.#leaderLabel.hold(signal);
    try {
      await aborted(signal);
    } finally {
      log.info('no longer leading');
      coordinator.endTerm(this.#stopping.signal.aborted ? 'OperatorStopping' : 'NotLeader');
      this.#hub = undefined;
      this.#controller = undefined;
      this.#coordinator = undefined;
      this.#publisher = undefined;
      this.metrics.fleet.clear();
      this.metrics.running.clear();
      for (const unsubscribe of policiesWatched) unsubscribe();
      configuration.stop();
      await Promise.all([
        controller.stop(),
        adoption.stop(),
        publisher.stop(),
        policyStatus.stop(),
        labelled,
      ]);
      await hub.stop();
    }
  }

  async #keepCertificates(store: AuthorityStore): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      try {
        await this.#renewCertificates(store);
        await this.#readMountedCertificate();
        await this.#putBack();
      } catch (error) {
        this.#log.warn({ err: error }, 'certificates could not be checked, it is tried again');
      }
      await pause(this.#settings.certificates.checkMs, signal);
    }
  }

  /**
   * What somebody changed or deleted since. The leader alone: replicas of an earlier release have another form of it. Without injection
   * every replica takes the webhook out: one of an earlier release may have put it back last.
   */
  async #putBack(): Promise<void> {
    if (!this.#settings.injection) await unregister(this.#api, WEBHOOK_CONFIGURATION);
    if (this.#publisher === undefined) return;
    this.#publisher.verifyAll();
    await this.#registerWebhook();
  }

  /** Takes over what cert-manager has renewed. */
  async #readMountedCertificate(): Promise<void> {
    const { webhookCertificateDir } = this.#settings;
    if (webhookCertificateDir === undefined) return;
    const read = await readMountedCertificate(webhookCertificateDir);
    const before = this.#mounted;
    this.#mounted = read;
    if (before === undefined || before.certificatePem === read.certificatePem) return;
    this.#webhook?.useCertificate(read);
    await this.#registerWebhook();
  }

  async #renewCertificates(store: AuthorityStore): Promise<void> {
    const { namespace, webhookService, hubUrl } = this.#settings;
    const loaded = await store.load();
    const changed = this.#authority?.bundlePem !== loaded.bundlePem;
    this.#authority = loaded;
    if (changed) await this.#registerWebhook();
    const { signer } = loaded;
    const isSigned = this.#servingSigner?.certificatePem === signer.certificatePem;
    if (this.#serving !== undefined && isSigned && !isDue(this.#serving.certificatePem, Date.now())) return;
    const hosts = [
      ...[HUB_SERVICE, webhookService].flatMap((service) => [
        `${service}.${namespace}.svc`,
        `${service}.${namespace}.svc.cluster.local`,
      ]),
      new URL(hubUrl).hostname,
      ...(this.#settings.webhookUrl === undefined ? [] : [new URL(this.#settings.webhookUrl).hostname]),
    ];
    this.#servingSigner = signer;
    this.#serving = issueServing(signer, [...new Set(hosts)], Date.now());
    if (this.#mounted === undefined) this.#webhook?.useCertificate(this.#serving);
    this.#hub?.useCertificate(this.#serving);
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
