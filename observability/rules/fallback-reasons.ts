// Which of the reasons for a plain migration say that something went wrong, and which that it was meant so. The compiler asks for
// an answer for each new reason.
import type { Reason } from '../../control/reasons.ts';

const isFault: Readonly<Record<Reason, boolean>> = {
  // How somebody configured it, or what the VM is.
  AccelerationDisabled: false,
  PostCopyAllowed: false,
  CompressionOn: false,
  CappedByBandwidthPerMigration: false,
  NoSharedRawVolume: false,
  VolumeTooLarge: false,
  DecentralizedMigration: false,
  VolumesBeingMigrated: false,
  RootVmi: false,
  PodNetworkBridged: false,
  // A VM that started before the first policy: over with its first migration.
  NoSidecar: false,
  Suspended: false,
  GainTooSmall: false,
  MigrationOver: false,
  Cancelled: false,
  ModeChanged: false,
  // It should have been accelerated.
  VolumeNotReadable: true,
  HubUnreachable: true,
  ProtocolTooOld: true,
  BreakerOpen: true,
  ClusterBreakerOpen: true,
  NotLeader: true,
  OperatorStopping: true,
  NoNasPermit: true,
  NoGo: true,
  SocketNotTaken: true,
  StaleEpoch: true,
  Busy: true,
  PeerRaw: true,
  PeerNotConnected: true,
  LinkVersion: true,
  LinkHandshakeFailed: true,
  TlsInsideQemu: true,
  PostCopyAnnounced: true,
  UnknownStream: true,
  NasTooSlow: true,
  NasReadFailed: true,
  SidecarStopping: true,
  SidecarRestarted: true,
  InternalError: true,
  ReasonOfLaterRelease: true,
};

/** Reasons that count as a fallback. */
export const faultReasons: readonly string[] = Object.entries(isFault)
  .filter(([, fault]) => fault)
  .map(([reason]) => reason);
