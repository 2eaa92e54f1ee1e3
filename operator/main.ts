// Entry of the operator's container: settings from the environment, credentials from the pod, SIGTERM ends it gracefully.
import { apiAccessFrom } from './kubernetes/api-access.ts';
import { Operator } from './operator.ts';
import { settingsFrom } from './settings.ts';

/** A pod has 30 s to end; what is not done by then is done by the next leader. */
const STOP_TIMEOUT_MS = 20_000;

/** Endpoints follow a pod's end within a second or two; a call of the webhook that finds nobody lets a VM in without a sidecar. */
const WEBHOOK_LINGER_MS = 5_000;

const operator = await Operator.start(await apiAccessFrom(process.env), settingsFrom(process.env));

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.once(signal, () => {
    setTimeout(() => process.exit(1), STOP_TIMEOUT_MS).unref();
    void operator.stop({ lingerMs: WEBHOOK_LINGER_MS }).then(() => process.exit(0));
  });
}
