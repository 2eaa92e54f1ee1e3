// How a migration or a policy stands and how it ended: the other constants that appear as reasons of conditions and events, beside
// those of reasons.ts, which say why there was no acceleration. docs/reasons.md is made from both. A constant, once released,
// keeps its name and meaning.

interface OutcomeText {
  readonly meaning: string;
  readonly nextStep: string;
}

const NOTHING = 'nothing to do';

const texts = {
  // While it is under way.
  Preparing: { meaning: 'the migration is prepared', nextStep: NOTHING },
  MigrationCreated: { meaning: 'the VirtualMachineInstanceMigration was made', nextStep: NOTHING },
  Arming: { meaning: 'the two sidecars are being brought together', nextStep: NOTHING },
  Framed: { meaning: 'both sidecars are armed, and pages come from the NAS', nextStep: NOTHING },
  Accelerated: { meaning: 'an event: both sidecars are armed', nextStep: NOTHING },
  Observing: {
    meaning: 'acceleration is Observe: every byte is passed on, and what would have been saved is recorded',
    nextStep: 'read status.result.estimate when it is over',
  },
  Migrating: { meaning: 'KubeVirt moves the VM', nextStep: NOTHING },
  Cancelling: {
    meaning: 'an event: the object was deleted, so the migration is cancelled',
    nextStep: NOTHING,
  },
  CollectingResults: { meaning: 'it is over, and the sidecars have yet to tell', nextStep: NOTHING },

  // How it ended.
  Migrated: { meaning: 'the VM runs on its target', nextStep: NOTHING },
  Succeeded: { meaning: 'an event: the VM runs on its target', nextStep: NOTHING },
  Failed: { meaning: 'an event: the migration failed or was not started', nextStep: 'read its message' },
  MigrationFailed: {
    meaning: 'KubeVirt says that the migration failed; the VM runs on its source',
    nextStep: 'read the message and the events of the VirtualMachineInstanceMigration',
  },
  MigrationDeleted: {
    meaning: 'somebody deleted the VirtualMachineInstanceMigration',
    nextStep: 'make another NasAwareMigration to migrate the VM',
  },

  // Why it was not started at all.
  VirtualMachineInstanceNotFound: {
    meaning: 'there is no such VirtualMachineInstance in the namespace',
    nextStep: 'check spec.vmiName',
  },
  VirtualMachineInstanceNotRunning: {
    meaning: 'the VirtualMachineInstance does not run',
    nextStep: 'start the VM, then make another NasAwareMigration',
  },
  NotLiveMigratable: {
    meaning: 'KubeVirt says that the VM cannot be live-migrated; the message repeats its reason',
    nextStep: "remove what KubeVirt's reason names, then make another NasAwareMigration",
  },
  MigrationInFlight: {
    meaning: 'another migration of the VM is under way',
    nextStep: 'wait for it to end, then make another NasAwareMigration',
  },
  MigrationNotFound: {
    meaning: 'there is no VirtualMachineInstanceMigration of the name that spec.migrationName has',
    nextStep: 'check spec.migrationName',
  },
  MigrationOfOtherVirtualMachineInstance: {
    meaning: 'the VirtualMachineInstanceMigration of spec.migrationName moves another VM',
    nextStep: 'check spec.vmiName',
  },
  MigrationRefused: {
    meaning:
      'the API server refused the VirtualMachineInstanceMigration (admission, a quota, or a name that is taken)',
    nextStep: 'remove what the message names, then make another NasAwareMigration',
  },

  // Conditions of policies.
  Applied: { meaning: 'the policy applies to the VMs that it selects', nextStep: NOTHING },
  Unreadable: {
    meaning: 'this release cannot read the policy; as an event: nor the migration, which is left alone',
    nextStep:
      'write the policy anew with the fields of the installed release; for a migration upgrade the operator, or delete the object',
  },
  NoConflict: { meaning: 'no other policy wins over this one', nextStep: NOTHING },
  MoreSpecificPolicy: {
    meaning: 'for some VMs that this policy selects another one wins; status.overridden names them',
    nextStep: 'nothing to do if that is meant; else make the selectors exclude each other',
  },
  BreakerClosed: { meaning: 'accelerated migrations do not fail', nextStep: NOTHING },
  Registered: { meaning: 'new virt-launcher pods get a sidecar', nextStep: NOTHING },
  Disabled: {
    meaning: 'spec.injection is Disabled',
    nextStep: 'set it to Enabled if VMs are to get sidecars',
  },
  InjectionOff: {
    meaning: 'the operator runs without injection',
    nextStep: 'set injection.enabled of the chart, which is NASMIG_INJECTION of the operator, to true',
  },
  KubernetesTooOld: {
    meaning: 'native sidecars need Kubernetes 1.29',
    nextStep: 'upgrade the cluster; until then migrations are plain',
  },
  StoppedInNamespaces: {
    meaning:
      'a quota, a limit range, full nodes or an image that cannot be pulled stopped a pod with a sidecar, so pods of that namespace start without',
    nextStep:
      'raise the quota, widen the limit range, add nodes or let the namespace pull the image; injection is tried again half an hour after the last refusal',
  },
} as const satisfies Record<string, OutcomeText>;

/** A documented constant. */
export type OutcomeReason = keyof typeof texts;

/** All constants, in the order of the documentation. */
export const outcomeReasons = Object.keys(texts) as [OutcomeReason, ...OutcomeReason[]];

export function outcomeReasonText(reason: OutcomeReason): OutcomeText {
  return texts[reason];
}
