// The sidecar's process, in the container that the operator's webhook adds to a virt-launcher pod. First of all it makes the
// directory of migration sockets, before virt-handler does: whoever makes it owns it. Only then the rest is loaded.
// SIGTERM ends it within a second, whatever hangs. Its environment: agent/agent-config.ts.

import { endProcess } from './agent/end-process.ts';
import { socketDirectoryFrom } from './agent/socket-directory-path.ts';
import { Interposer, type InterposerEvent } from './interposer/interposer.ts';

/** SIGTERM to the end, at most: 100 ms below the promised second. */
const STOP_MS = 900;

/** What the interposer reports before there is anybody to hear it. */
const early: InterposerEvent[] = [];
let report = (event: InterposerEvent): void => void early.push(event);
let interposer: Interposer | undefined;
let socketProblem = '';
try {
  interposer = new Interposer({
    directory: socketDirectoryFrom(process.env),
    report: (event) => report(event),
  });
} catch (error) {
  socketProblem = error instanceof Error ? error.message : String(error);
}

let mayHang = (): boolean => false;
/** Until the agent is there, SIGTERM has only the directory to be left as it was. */
let stop = (_signal: string): void => end(0);
process.on('SIGTERM', () => stop('SIGTERM'));
process.on('SIGINT', () => stop('SIGINT'));
/** The same after a mistake of ours: QEMU's connections are not to be closed all at once (docs/adr/0018-a-failed-migration-closes-main.md). */
let giveUp = (): void => end(1);

const [
  { collectLessOften },
  { READ_THREADS, readThreads },
  { pino },
  { Agent },
  { AgentConfigError, agentConfigFrom },
] = await Promise.all([
  import('./garbage-collection.ts'),
  import('./nas/read-threads.ts'),
  import('pino'),
  import('./agent/agent.ts'),
  import('./agent/agent-config.ts'),
]);

collectLessOften();
const log = pino(
  { base: null, level: process.env['NASMIG_LOG_LEVEL'] ?? 'info' },
  pino.destination({ fd: 1, sync: true }),
);

process.on('uncaughtException', (error) => {
  log.fatal({ code: (error as { code?: unknown }).code, stack: error.stack }, error.message);
  giveUp();
});

try {
  const config = agentConfigFrom(process.env);
  const threads = readThreads(process.env);
  if (threads < READ_THREADS) {
    log.warn({ threads }, `fewer than ${READ_THREADS} threads for reads of the NAS: set UV_THREADPOOL_SIZE`);
  }
  const agent = new Agent({ config, interposer, socketProblem, log });
  mayHang = () => agent.mayHang;
  const stopInOrder = (code: number): void => {
    setTimeout(() => end(code), STOP_MS);
    void agent.stop().finally(() => end(code));
  };
  stop = (signal) => {
    log.info({ signal }, 'told to stop');
    stopInOrder(0);
  };
  giveUp = () => {
    giveUp = () => end(1);
    stopInOrder(1);
  };
  report = (event) => agent.onInterposer(event);
  for (const event of early.splice(0)) agent.onInterposer(event);
  await agent.start();
  log.info({ upMs: Math.round(performance.now()), release: config.release }, 'sidecar is up');
} catch (error) {
  const code = error instanceof AgentConfigError ? error.code : undefined;
  log.fatal({ code }, error instanceof Error ? error.message : String(error));
  end(2);
}

/** Gives back what is taken, and ends this process at once. */
function end(code: number): never {
  interposer?.stop();
  return endProcess(code, mayHang());
}
