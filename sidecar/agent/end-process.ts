// Ends this process within milliseconds, whatever the NAS does. A read that hangs on the NAS occupies a thread of libuv's
// pool, and process.exit() waits for those threads; process 1 of a container cannot kill itself by a signal either. Becoming
// another program ends all threads at once: the node program itself, which is in every image, with nothing to do.

/** Does not return. Exit handlers do not run: everything that must be told has been told. */
export function endProcess(code: number): never {
  const args = code === 0 ? ['node', '--version'] : ['node', '--eval', `process.exit(${Math.trunc(code)})`];
  try {
    process.execve?.(process.execPath, args, {});
  } catch (error) {
    // Under --permission without --allow-child-process. An abort ends even process 1, with an ugly exit code.
    process.stderr.write(
      `${JSON.stringify({ level: 'error', msg: 'execve failed', error: String(error) })}\n`,
    );
  }
  process.abort();
}
