// kubectl-nasmig: the process. Streams, signals and the exit code; everything else is run.ts.
import { run } from './run.ts';

const interruption = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => interruption.abort());
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    // Who read us has seen enough (`| head`).
    process.exit(error.code === 'EPIPE' ? 0 : 1);
  });

const code = await run(process.argv.slice(2), {
  environment: process.env,
  write: (text) => void process.stdout.write(text),
  note: (text) => void process.stderr.write(text),
  isTerminal: process.stdout.isTTY === true,
  now: () => Date.now(),
  interrupted: interruption.signal,
});
// What is written is written out first; a connection that is still open keeps nobody waiting.
process.stdout.write('', () => process.stderr.write('', () => process.exit(code)));
