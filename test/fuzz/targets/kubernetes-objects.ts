// What the operator reads of other people's objects: the admission review of a launcher pod, and KubeVirt's VMI and VMIM. A
// pod is always allowed; an object of an unexpected shape never throws.
import { readPolicy } from '../../../operator/controller/policies.ts';
import { admissionReviewSchema, admit } from '../../../operator/injection/admission.ts';
import { readVmi, readVmim } from '../../../operator/kubevirt/objects.ts';
import { mutateJson } from '../json-mutator.ts';
import { type FuzzTarget, must } from '../target.ts';

const KUBEVIRT_USER = 'system:serviceaccount:kubevirt:kubevirt-controller';
const policy = readPolicy({ metadata: { name: 'all' }, spec: {} });
const context: Parameters<typeof admit>[1] = {
  kubevirtUser: KUBEVIRT_USER,
  policyFor: () => policy,
  isStopped: (namespace) => namespace === 'full',
  onInjected: () => {},
  notShared: (_namespace, claim) => (claim === 'c' ? undefined : 'access mode ReadWriteOnce'),
  settings: {
    image: 'sidecar:1',
    hubUrl: 'wss://hub:8443',
    caConfigMap: 'ca',
    cpu: '100m',
    memory: '256Mi',
    indexMemory: '96Mi',
    logLevel: 'info',
  },
};

const owner = {
  apiVersion: 'kubevirt.io/v1',
  kind: 'VirtualMachineInstance',
  name: 'db',
  uid: 'v',
  controller: true,
};
const pod = {
  metadata: { labels: { 'kubevirt.io': 'virt-launcher', tier: 'db' }, ownerReferences: [owner] },
  spec: {
    containers: [
      {
        name: 'compute',
        resources: { limits: { cpu: '1', memory: '1Gi' }, requests: { cpu: '1', memory: '1Gi' } },
        volumeMounts: [{ name: 'd', mountPath: '/var/run/kubevirt-private/vmi-disks/d' }],
      },
    ],
    initContainers: [],
    volumes: [
      { name: 'public', emptyDir: {} },
      { name: 'd', persistentVolumeClaim: { claimName: 'c' } },
    ],
  },
};

const parse = (input: Uint8Array): unknown => {
  try {
    return JSON.parse(Buffer.from(input).toString('utf8'));
  } catch {
    return undefined;
  }
};
const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));

/** The webhook's request. */
export const admissionReview: FuzzTarget = {
  seeds: () => [
    json({
      apiVersion: 'admission.k8s.io/v1',
      kind: 'AdmissionReview',
      request: {
        uid: 'r-1',
        operation: 'CREATE',
        namespace: 'shop',
        resource: { group: '', resource: 'pods' },
        userInfo: { username: KUBEVIRT_USER },
        object: pod,
      },
    }),
  ],
  run: (input) => {
    const review = admissionReviewSchema.safeParse(parse(input));
    if (!review.success) return 'malformed';
    const { answer, decision } = admit(review.data, context);
    must(
      answer.response.allowed && answer.response.uid === review.data.request.uid,
      () => 'a pod is not allowed',
    );
    must(
      (answer.response.patch !== undefined) === (decision === 'Injected'),
      () => `a patch for ${decision}`,
    );
    return decision;
  },
  mutate: mutateJson,
  maxInputBytes: 16 * 1024,
};

const migrationState = {
  migrationUid: 'm',
  sourcePod: 'a',
  targetPod: 'b',
  startTimestamp: '2026-01-01T00:00:00Z',
  migrationConfiguration: { allowPostCopy: false, bandwidthPerMigration: '64Mi', maxDowntimeMs: 300 },
};

/** A VirtualMachineInstance or its migration. */
export const kubevirtObject: FuzzTarget = {
  seeds: () => [
    json({
      metadata: { name: 'db', namespace: 'shop', uid: 'v', labels: { a: 'b' }, ownerReferences: [owner] },
      spec: {
        domain: { memory: { guest: '1Gi' } },
        volumes: [{ name: 'd', persistentVolumeClaim: { claimName: 'c' } }],
      },
      status: { phase: 'Running', conditions: [{ type: 'LiveMigratable', status: 'True' }], migrationState },
    }),
    json({
      metadata: { name: 'mig', namespace: 'shop', uid: 'm' },
      spec: { vmiName: 'db' },
      status: { phase: 'Running', migrationState },
    }),
  ],
  run: (input) => {
    const value = parse(input);
    if (value === null || typeof value !== 'object') return 'no object';
    const vmi = readVmi(value);
    const vmim = readVmim(value);
    must((vmi === undefined) === (typeof nameOf(value) !== 'string'), () => 'only the name is needed');
    if (vmi !== undefined) must(typeof vmi.metadata.namespace === 'string', () => 'no namespace');
    return `${vmi === undefined ? 'no' : 'a'} VMI, ${vmim === undefined ? 'no' : 'a'} VMIM`;
  },
  mutate: mutateJson,
  maxInputBytes: 16 * 1024,
};

function nameOf(value: object): unknown {
  return (value as { metadata?: { name?: unknown } }).metadata?.name;
}
