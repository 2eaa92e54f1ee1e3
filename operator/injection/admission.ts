// What the mutating webhook answers: allowed always, with a patch when a policy asks for a sidecar. Only pods that KubeVirt's own
// service account creates are looked at. Whatever goes wrong, the pod is allowed as it is. Pure but for its look-ups.
import type { V1Pod } from '@kubernetes/client-node';
import { z } from 'zod';
import type { Policy } from '../controller/policies.ts';
import { configurationOf } from '../hub/sidecar-configuration.ts';
import { parseQuantity } from '../kubevirt/quantities.ts';
import { type SidecarSettings, type Skip, sidecarPatch } from './sidecar-patch.ts';

/** `admission.k8s.io/v1` AdmissionReview, as far as it is read. */
export const admissionReviewSchema = z.object({
  apiVersion: z.literal('admission.k8s.io/v1'),
  kind: z.literal('AdmissionReview'),
  request: z.object({
    uid: z.string().max(128),
    operation: z.string(),
    dryRun: z.boolean().optional(),
    namespace: z.string().optional(),
    resource: z.object({ group: z.string(), resource: z.string() }),
    userInfo: z.object({ username: z.string() }),
    object: z.record(z.string(), z.unknown()),
  }),
});
export type AdmissionReview = z.infer<typeof admissionReviewSchema>;

export interface AdmissionAnswer {
  apiVersion: 'admission.k8s.io/v1';
  kind: 'AdmissionReview';
  response: { uid: string; allowed: true; patchType?: 'JSONPatch'; patch?: string; warnings?: string[] };
}

export type AdmissionDecision =
  | 'Injected'
  | Skip
  | 'NotOurs'
  | 'NoPolicy'
  | 'InjectionDisabled'
  | 'InjectionStopped'
  | 'MalformedPod';

export interface AdmissionContext {
  /** The user that creates launcher pods: KubeVirt's controller. */
  kubevirtUser: string;
  /** The policy for a VM with these labels in this namespace. */
  policyFor: (namespace: string, labels: Readonly<Record<string, string>>) => Policy | undefined;
  /**
   * True after pods with our sidecar were refused in this namespace (quota, limit range, full nodes, no image); told of every pod that
   * is asked for before, but not of one in a dry run.
   */
  isStopped: (namespace: string, asked: V1Pod | undefined) => boolean;
  /** This pod gets a sidecar, unless the answer is false. Not asked in a dry run. */
  onInjected: (pod: V1Pod) => boolean | undefined;
  /** Why a disk on this claim cannot be read by both nodes; undefined when it can, or when that is not known. Answers at once. */
  notShared: (namespace: string, claim: string) => string | undefined;
  settings: SidecarSettings;
}

interface Admission {
  answer: AdmissionAnswer;
  decision: AdmissionDecision;
}

/** The answer and what it was, for metrics. Never throws: a pod that is not one is allowed, for the API server to refuse. */
export function admit(review: AdmissionReview, context: AdmissionContext): Admission {
  try {
    return admitPod(review, context);
  } catch {
    return { answer: answerTo(review.request.uid), decision: 'MalformedPod' };
  }
}

function admitPod(review: AdmissionReview, context: AdmissionContext): Admission {
  const { request } = review;
  const unchanged = (decision: AdmissionDecision) => ({ answer: answerTo(request.uid), decision });
  const isPodCreation =
    request.operation === 'CREATE' && request.resource.group === '' && request.resource.resource === 'pods';
  if (!isPodCreation || request.userInfo.username !== context.kubevirtUser) return unchanged('NotOurs');
  const pod = request.object as V1Pod;
  const namespace = request.namespace ?? '';
  const isDryRun = request.dryRun === true;
  // KubeVirt copies the VMI's labels to the pod, so that no look-up of the VMI is needed here.
  const policy = context.policyFor(namespace, pod.metadata?.labels ?? {});
  if (policy === undefined) return unchanged('NoPolicy');
  if (policy.spec.injection !== 'Enabled') return unchanged('InjectionDisabled');
  if (context.isStopped(namespace, isDryRun ? undefined : pod)) return unchanged('InjectionStopped');
  const { sidecar, index } = policy.spec;
  const isShared = (claim: string) => context.notShared(namespace, claim) === undefined;
  const settings = {
    ...context.settings,
    cpu: sidecar?.cpu ?? context.settings.cpu,
    memory: sidecar?.memory ?? context.settings.memory,
    indexMemory: indexWithin(
      sidecar?.memory ?? context.settings.memory,
      index?.memory ?? context.settings.indexMemory,
    ),
    ...(index === undefined ? {} : configured(policy)),
  };
  const result = sidecarPatch(pod, settings, isShared);
  if ('skip' in result) return unchanged(result.skip);
  if (!isDryRun && context.onInjected(pod) === false) return unchanged('InjectionStopped');
  const answer = answerTo(request.uid);
  answer.response.patchType = 'JSONPatch';
  answer.response.patch = Buffer.from(JSON.stringify(result.patch)).toString('base64');
  return { answer, decision: 'Injected' };
}

/**
 * The CRD sees only what one policy says: with the operator's default for the other of the two, the index may be as large as the sidecar,
 * which would be killed for it. It gets half then.
 */
function indexWithin(memory: string, indexMemory: string): string {
  const bytes = parseQuantity(memory) ?? 0;
  return (parseQuantity(indexMemory) ?? 0) < bytes ? indexMemory : String(Math.floor(bytes / 2));
}

/** The same that the hub says later: for the time before the sidecar reaches it. */
function configured(policy: Policy): Pick<SidecarSettings, 'indexBuild' | 'indexBytesPerSecond'> {
  const { build, nasReadBytesPerSecond } = configurationOf(policy).index;
  return {
    indexBuild: build,
    ...(nasReadBytesPerSecond === undefined ? {} : { indexBytesPerSecond: nasReadBytesPerSecond }),
  };
}

function answerTo(uid: string): AdmissionAnswer {
  return { apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview', response: { uid, allowed: true } };
}
