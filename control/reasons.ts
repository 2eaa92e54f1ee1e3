// Why a migration is not, or not any longer, accelerated: the constants that appear in `raw` and `disarm` messages, in
// conditions, events, results and metric labels. One list for operator and sidecar; docs/reasons.md is made from it.
// A constant, once released, keeps its name and meaning.

interface ReasonText {
  /** What is the case, as a sentence for a condition message. */
  readonly meaning: string;
  /** What the person who reads it can do. */
  readonly nextStep: string;
}

const texts = {
  // Decided by the operator before anything is armed.
  AccelerationDisabled: {
    meaning: 'acceleration is Disabled for this migration',
    nextStep: 'set spec.acceleration to Preferred if the page cache should come from the NAS',
  },
  PostCopyAllowed: {
    meaning:
      'the migration may switch to post-copy, where the death of anything in the path would pause the VM on both sides',
    nextStep:
      'set allowPostCopy to false in the MigrationPolicy or the KubeVirt configuration that applies to this VM',
  },
  CompressionOn: {
    meaning: 'QEMU compresses the pages itself (migration compression zstd), so they cannot be recognised',
    nextStep: 'set experimental.compression to none in the MigrationPolicy that applies to this VM',
  },
  CappedByBandwidthPerMigration: {
    meaning: 'bandwidthPerMigration caps QEMU before the sidecar: network would be saved, time would not',
    nextStep: 'raise bandwidthPerMigration, and limit the link with spec.limits.linkBandwidth instead',
  },
  NoSharedRawVolume: {
    meaning:
      'the VM has no raw file system volume on shared storage (ReadWriteMany, Filesystem, a known NFS driver)',
    nextStep:
      'see the condition message for each volume; add your driver to sharedFileSystemDrivers if it is one',
  },
  VolumeNotReadable: {
    meaning: 'the sidecar cannot read a volume that it should use',
    nextStep: 'check that disk.img on the volume is readable by uid 107 and that the NAS answers',
  },
  VolumeTooLarge: {
    meaning:
      'the volumes that could be used are too large: an index has room for 16 TiB of all volumes of a VM together, the smallest first',
    nextStep: 'nothing to do: the VM is migrated plainly',
  },
  DecentralizedMigration: {
    meaning: 'the migration goes to another cluster or namespace, whose sidecars this operator does not know',
    nextStep: 'nothing to do: decentralized migrations are always plain',
  },
  VolumesBeingMigrated: {
    meaning: 'volumes of the VM are being migrated, so source and destination do not read the same blocks',
    nextStep: 'migrate again after the volume migration has finished',
  },
  RootVmi: {
    meaning: "the VMI runs as root, and the sidecar, which runs as 107, could not take the socket's place",
    nextStep: 'turn the Root feature gate of KubeVirt off and restart the VM',
  },
  NoSidecar: {
    meaning: 'a virt-launcher pod of the VM has no sidecar',
    nextStep: 'create a NasMigrationPolicy that selects the VM, and migrate or restart the VM once',
  },
  PodNetworkBridged: {
    meaning:
      "the VM's interface is bridged to the pod network, which leaves its pod no address to reach the operator from; said in place of HubUnreachable",
    nextStep: 'bind the pod network by masquerade, and restart the VM, if it should be accelerated',
  },
  HubUnreachable: {
    meaning: 'the sidecar of a virt-launcher pod is not connected to the operator',
    nextStep: "check the sidecar's log and that its namespace may reach the hub Service (NetworkPolicy)",
  },
  ProtocolTooOld: {
    meaning: 'a sidecar speaks only protocol versions that this release, or the other side, no longer speaks',
    nextStep: 'migrate or restart the VM once so that it gets the sidecar of the installed release',
  },
  Suspended: {
    meaning: 'acceleration is suspended by a NasMigrationPolicy',
    nextStep: 'set spec.suspend to false in the policy named in the message',
  },
  GainTooSmall: {
    meaning:
      'less than 20 % of what QEMU will send can come from the NAS, or the link is faster than references, so that time is not saved',
    nextStep: 'nothing to do; use acceleration Observe to see what would be saved',
  },
  BreakerOpen: {
    meaning: 'an accelerated attempt of this VM failed recently, so that this one is plain',
    nextStep: "read the failed attempt's status; the breaker closes by itself or with the next success",
  },
  ClusterBreakerOpen: {
    meaning:
      'three accelerated attempts failed in this cluster within an hour, so that nothing is accelerated',
    nextStep: "read the failed attempts' status and the operator's Degraded condition, and report it",
  },
  NotLeader: {
    meaning:
      "the operator replica lost its leadership while the source held QEMU's first connection for its GO",
    nextStep: 'nothing to do: the new leader arms the next migration',
  },
  OperatorStopping: {
    meaning: "the operator stopped while the source held QEMU's first connection for its GO",
    nextStep: 'nothing to do: the next leader arms the next migration',
  },
  NoNasPermit: {
    meaning: 'the budget of concurrent reads of the NFS server is used up by other migrations',
    nextStep: 'wait, or raise NASMIG_NAS_READ_PERMITS of the operator if the NAS can bear more',
  },
  MigrationOver: {
    meaning: 'the migration ended',
    nextStep: 'nothing to do',
  },
  Cancelled: {
    meaning: 'the migration was cancelled',
    nextStep: 'nothing to do',
  },

  // Decided by a sidecar, or between the two.
  NoGo: {
    meaning: "the source held QEMU's first connection and no GO came within 2 s",
    nextStep: "check the target's sidecar and the operator's log for this migration",
  },
  SocketNotTaken: {
    meaning: "the sidecar could not take the migration socket's place in time",
    nextStep: "check the sidecar's log: directory ownership, or no room on the pod's volume `public`",
  },
  StaleEpoch: {
    meaning: 'the order came from an operator that is not the leader any longer',
    nextStep: 'nothing to do: the new leader arms again if there is time',
  },
  ModeChanged: {
    meaning: 'acceleration was changed from or to Observe while the migration was being armed',
    nextStep: 'nothing to do: the next migration goes by what is set now',
  },
  Busy: {
    meaning: 'the sidecar is still in another migration of this VM',
    nextStep: 'wait for that migration to end',
  },
  PeerRaw: {
    meaning: 'the other side relays raw',
    nextStep: 'see the reason of the other side',
  },
  PeerNotConnected: {
    meaning: "no GO came within 2 s, because the target's sidecar was not connected to the operator",
    nextStep: "check the log of the target pod's sidecar and its way to the hub",
  },
  LinkVersion: {
    meaning: 'the two sidecars have no link protocol version in common',
    nextStep: 'migrate or restart the VM once more with the installed release',
  },
  LinkHandshakeFailed: {
    meaning: 'the sidecars did not agree on the link (no answer, or a wrong proof)',
    nextStep: "check both sidecars' logs",
  },
  TlsInsideQemu: {
    meaning: 'QEMU encrypts the stream itself, so that no page can be recognised',
    nextStep: 'nothing to do; KubeVirt does not configure this by default',
  },
  PostCopyAnnounced: {
    meaning: 'QEMU announced post-copy on the main channel',
    nextStep: 'set allowPostCopy to false in the MigrationPolicy that applies to this VM',
  },
  UnknownStream: {
    meaning: 'the stream is not one that the page finder knows',
    nextStep: 'report it with the QEMU version',
  },
  NasTooSlow: {
    meaning: 'reads from the NAS missed their deadline, so that the volume is off for this migration',
    nextStep: 'check the NAS and the storage network',
  },
  NasReadFailed: {
    meaning: 'reads from the NAS failed with an error, so that the volume is off for this migration',
    nextStep:
      "read the error in the target sidecar's log (NAS read failed); check the export, and that the volume was neither replaced nor made smaller",
  },
  SidecarStopping: {
    meaning: 'the sidecar was told to stop',
    nextStep: 'nothing to do',
  },
  SidecarRestarted: {
    meaning: 'a sidecar restarted in mid-migration, and the connections through it were lost',
    nextStep:
      "read the previous container's log; when it was out of memory, raise the sidecar's memory in the policy",
  },
  InternalError: {
    meaning: 'an error inside the sidecar',
    nextStep: "report it with the message and the sidecar's log",
  },
  ReasonOfLaterRelease: {
    meaning: 'a reason that only a later release knows',
    nextStep: "read the sidecar's log, and upgrade what is older",
  },
} as const satisfies Record<string, ReasonText>;

/** A documented reason constant. */
export type Reason = keyof typeof texts;

/** All constants, in the order of the documentation. */
export const reasons = Object.keys(texts) as [Reason, ...Reason[]];

/** What a reason is called here that came from another release: itself, when this release knows it. */
export function knownReason(reason: string): Reason {
  return Object.hasOwn(texts, reason) ? (reason as Reason) : 'ReasonOfLaterRelease';
}

/** The sentence for a condition message: what is the case, the detail if there is one, and the next step. */
export function describeReason(reason: Reason, detail?: string): string {
  const text: ReasonText = texts[reason];
  return detail === undefined || detail === ''
    ? `${text.meaning}; ${text.nextStep}`
    : `${text.meaning} (${detail}); ${text.nextStep}`;
}

/** Meaning and next step apart, for the generated documentation. */
export function reasonText(reason: Reason): { meaning: string; nextStep: string } {
  return texts[reason];
}
