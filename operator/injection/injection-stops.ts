// Where injection is stopped: a namespace in which a pod was refused (a quota, a limit range, full nodes, an image of ours that cannot be
// pulled) while its pods get our sidecar. A VM must start and move without us rather than not at all; KubeVirt tries again, and the next pod comes without a
// sidecar. Told from objects that every replica watches; it lasts for a while after the refusal was last seen. A pod that is asked for
// again and again, nobody says why, is left without a sidecar by itself first: only when it comes then, it was the sidecar.
import type { V1Pod } from '@kubernetes/client-node';
import type { Caches, KubevirtObject } from '../controller/caches.ts';
import { controllingVmi, hasSidecar, isOver, SIDECAR_CONTAINER } from '../kubevirt/launcher-pod.ts';
import { launcherLabels, readVmi, readVmim } from '../kubevirt/objects.ts';

/** After it no pod was refused any more: the next may have a sidecar again. */
export const STOP_MS = 30 * 60_000;
/**
 * A pod may wait this long for a node (an autoscaler adds one, others leave), or for our image (a registry that is away for a moment), before
 * it is taken for refused.
 */
export const UNSCHEDULABLE_GRACE_MS = 30_000;
/** A pod that is asked for after it, so often with our sidecar and without having come, is asked for without it. */
export const UNSEEN_GRACE_MS = 60_000;
export const UNSEEN_REQUESTS = 3;
/** The API server may ask twice about one pod, and the cache may see it a moment late. */
export const LEFT_OUT_MS = 5000;
/** VMs and migrations whose pods were asked for and are not there: some, for a moment, unless something is wrong. */
const MAX_ASKED = 10_000;
/**
 * The words of the API server's admission plugins ResourceQuota (too much, or a container without the request or limit that is counted)
 * and LimitRanger.
 */
const REFUSAL =
  /exceeded quota|failed quota|(maximum|minimum) \S+ usage per (Container|Pod) is|max limit to request ratio per (Container|Pod) is/i;

export interface InjectionStop {
  namespace: string;
  why: string;
}

export class InjectionStops {
  readonly #now: () => number;
  readonly #isInjected: (namespace: string, labels: Readonly<Record<string, string>>) => boolean;
  readonly #onStop: (stop: InjectionStop) => void;
  readonly #stops = new Map<string, { untilMs: number; why: string }>();
  /** Pods with our sidecar that found no node, or not our image, by their key. */
  readonly #waiting = new Map<string, { namespace: string; sinceMs: number; why: string }>();
  /** Pods with our sidecar that were asked for and are not there yet, by what they are for: when first, and how often. */
  readonly #asked = new Map<string, { sinceMs: number; requests: number }>();
  /** Those of them that are asked for without it now. */
  readonly #leftOut = new Map<string, { namespace: string; sinceMs: number; why: string }>();
  #unsubscribe: (() => void)[] = [];

  constructor(options: {
    isInjected: (namespace: string, labels: Readonly<Record<string, string>>) => boolean;
    onStop: (stop: InjectionStop) => void;
    now?: () => number;
  }) {
    this.#isInjected = options.isInjected;
    this.#onStop = options.onStop;
    this.#now = options.now ?? (() => performance.now());
  }

  /** Before the caches are filled: what is refused at the start counts, too. */
  watch({ pods, vmis, vmims }: Pick<Caches, 'pods' | 'vmis' | 'vmims'>): void {
    this.#unsubscribe = [
      pods.onChange(({ current, previous }) => {
        if (current !== undefined) this.onPod(current);
        else if (previous !== undefined) this.#waiting.delete(podKey(previous));
      }),
      vmis.onChange(({ current }) => {
        if (current !== undefined) this.onVmi(current);
      }),
      vmims.onChange(({ current }) => {
        if (current !== undefined) this.onVmim(current, labelsOf(vmis, current));
      }),
    ];
  }

  stop(): void {
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
  }

  isStopped(namespace: string): boolean {
    this.#settle();
    return this.#stops.has(namespace);
  }

  /**
   * A pod is asked for (undefined: in a dry run). KubeVirt tells why the last one for the same VM or migration was refused only in
   * events, and other admission plugins have words of their own: that it did not come again and again is enough to try it without us.
   * One that does not come then either is refused for another reason, and we begin anew.
   */
  onAsked(namespace: string, pod: V1Pod | undefined): void {
    if (pod === undefined) return;
    const purpose = purposeOf(pod);
    const asked = this.#asked.get(purpose);
    if (asked === undefined) return;
    const leftOut = this.#leftOut.get(purpose);
    if (leftOut !== undefined && this.#now() - leftOut.sinceMs >= LEFT_OUT_MS) this.#forget(purpose);
    const isRefused = asked.requests >= UNSEEN_REQUESTS && this.#now() - asked.sinceMs >= UNSEEN_GRACE_MS;
    if (leftOut !== undefined || !isRefused) return;
    const vm = controllingVmi(pod)?.name ?? '';
    const why = `pods of the VM ${vm} were refused again and again until they came without a sidecar; its events say by what`;
    this.#leftOut.set(purpose, { namespace, sinceMs: this.#now(), why });
  }

  /** It is to get our sidecar, and is not there yet; false when it must do without. */
  onInjected(pod: V1Pod): boolean {
    const purpose = purposeOf(pod);
    if (this.#leftOut.has(purpose)) return false;
    const asked = this.#asked.get(purpose);
    if (asked !== undefined) asked.requests += 1;
    else if (this.#asked.size < MAX_ASKED) this.#asked.set(purpose, { sinceMs: this.#now(), requests: 1 });
    return true;
  }

  /** All namespaces, sorted. */
  stopped(): InjectionStop[] {
    this.#settle();
    return [...this.#stops]
      .map(([namespace, { why }]) => ({ namespace, why }))
      .sort((a, b) => (a.namespace < b.namespace ? -1 : 1));
  }

  onPod(pod: V1Pod): void {
    this.#came(pod);
    const key = podKey(pod);
    const why = isOver(pod) || !hasSidecar(pod) ? undefined : (unschedulable(pod) ?? withoutImage(pod));
    if (why === undefined || controllingVmi(pod) === undefined) {
      // One that waited long enough counts, also when it is scheduled just now.
      this.#settle();
      this.#waiting.delete(key);
      return;
    }
    const since = this.#waiting.get(key)?.sinceMs ?? this.#now();
    this.#waiting.set(key, { namespace: pod.metadata?.namespace ?? '', sinceMs: since, why });
  }

  /** KubeVirt's own words when it may not create the pod of a VM that starts. */
  onVmi(object: KubevirtObject): void {
    const vmi = readVmi(object);
    const refused = vmi?.status.conditions.find(
      ({ type, status, message = '' }) =>
        type === 'Synchronized' && status === 'False' && REFUSAL.test(message),
    );
    if (vmi === undefined || refused === undefined) return;
    this.#refused(vmi.metadata.namespace, vmi.metadata.labels ?? {}, refused.message ?? '');
  }

  /** The same for the target pod of a migration. */
  onVmim(object: KubevirtObject, vmiLabels: Readonly<Record<string, string>>): void {
    const vmim = readVmim(object);
    const refused = vmim?.status.conditions.find(
      ({ type, status }) => type === 'migrationRejectedByResourceQuota' && status === 'True',
    );
    if (vmim === undefined || refused === undefined) return;
    this.#refused(vmim.metadata.namespace, vmiLabels, refused.message ?? 'exceeded quota');
  }

  #came(pod: V1Pod): void {
    const purpose = purposeOf(pod);
    const leftOut = this.#leftOut.get(purpose);
    this.#forget(purpose);
    if (leftOut !== undefined && !hasSidecar(pod)) this.#stopNow(leftOut.namespace, leftOut.why);
  }

  #forget(purpose: string): void {
    this.#asked.delete(purpose);
    this.#leftOut.delete(purpose);
  }

  #refused(namespace: string, labels: Readonly<Record<string, string>>, why: string): void {
    if (this.#isInjected(namespace, labels)) this.#stopNow(namespace, why);
  }

  #stopNow(namespace: string, why: string): void {
    const isNew = !this.#stops.has(namespace);
    this.#stops.set(namespace, { untilMs: this.#now() + STOP_MS, why });
    if (isNew) this.#onStop({ namespace, why });
  }

  #settle(): void {
    const nowMs = this.#now();
    for (const [namespace, { untilMs }] of this.#stops) if (untilMs <= nowMs) this.#stops.delete(namespace);
    for (const [purpose, { sinceMs }] of this.#asked) if (nowMs - sinceMs >= STOP_MS) this.#forget(purpose);
    for (const { namespace, sinceMs, why } of this.#waiting.values())
      if (nowMs - sinceMs >= UNSCHEDULABLE_GRACE_MS) this.#stopNow(namespace, why);
  }
}

/** The scheduler's words when no node has room; other reasons (taints, affinity) are not about resources. */
function unschedulable(pod: V1Pod): string | undefined {
  const condition = pod.status?.conditions?.find(
    ({ type, status, reason }) => type === 'PodScheduled' && status === 'False' && reason === 'Unschedulable',
  );
  const message = condition?.message ?? '';
  return /Insufficient (cpu|memory)/.test(message) ? message : undefined;
}

/** Kubelet's words when it cannot pull the image of our sidecar: it tries again, and says one and the other in turn. */
function withoutImage(pod: V1Pod): string | undefined {
  const status = pod.status?.initContainerStatuses?.find(({ name }) => name === SIDECAR_CONTAINER);
  const { reason = '', message = '' } = status?.state?.waiting ?? {};
  if (!/^(ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull)$/.test(reason)) return undefined;
  return `the image of the sidecar cannot be pulled (${reason}${message === '' ? '' : `: ${message}`})`;
}

/** The migration it is the target of, or the VM it is the first pod of. */
function purposeOf(pod: V1Pod): string {
  return pod.metadata?.labels?.[launcherLabels.migrationJobUid] ?? controllingVmi(pod)?.uid ?? '';
}

function podKey({ metadata }: V1Pod): string {
  return `${metadata?.namespace ?? ''}/${metadata?.name ?? ''}`;
}

function labelsOf(vmis: Caches['vmis'], vmim: KubevirtObject): Record<string, string> {
  const vmi = vmis.get(`${vmim.metadata?.namespace ?? ''}/${String(vmim.spec?.vmiName ?? '')}`);
  return vmi?.metadata?.labels ?? {};
}
