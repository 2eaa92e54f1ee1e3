// Every bound of the control protocol in one place. Both sides enforce them before they believe a length;
// docs/control-protocol.md repeats them and a test compares.

/** WebSocket sub-protocol offered by a sidecar; a later, incompatible protocol gets another name. */
export const SUBPROTOCOL = 'v1.control.nasmigration.io';

/** HTTP path of the hub's WebSocket endpoint. */
export const HUB_PATH = '/v1/sidecar';

/** Audience of the projected service-account token: a token for the API server is worthless here and vice versa. */
export const TOKEN_AUDIENCE = 'nasmigration.io';

/** A message is one WebSocket text message of at most 64 KiB; 64 volumes with long names take about 20 KiB. */
export const MAX_MESSAGE_BYTES = 64 * 1024;

/** Volumes of one VM that can be used; KubeVirt VMs have a handful. */
export const MAX_VOLUMES = 64;

/** Migrations a sidecar may claim to be in after a reconnect: the running one and the one before it. */
export const MAX_RESUMED_MIGRATIONS = 4;

/** Free text (messages, reasons in words) that ends in conditions and events, which etcd keeps. */
export const MAX_TEXT_LENGTH = 1024;

/** Session key of a migration, from which the link keys are derived (HKDF): 32 bytes, base64 with padding. */
export const SESSION_KEY_BYTES = 32;

/** A source holds QEMU's first connection this long for a GO, then relays raw. Far below libvirt's 150 s stall guard. */
export const GO_TIMEOUT_MS = 2000;

/** The hub drops a connection whose HELLO does not come in this time. */
export const HELLO_TIMEOUT_MS = 5000;

/** Either side sends a WebSocket ping this often; three unanswered ones end the connection. */
export const HEARTBEAT_INTERVAL_MS = 10_000;

/**
 * QEMU's own downtime limit, which is in force until KubeVirt sets another one: a lower `maxDowntimeMs` at the beginning, a higher one only
 * when a later pass has stalled (feature gate MigrationStallDetection).
 */
export const DEFAULT_DOWNTIME_LIMIT_MS = 300;

/** The source sends `progress` at most this often; more is dropped by the sender. */
export const PROGRESS_INTERVAL_MS = 1000;
