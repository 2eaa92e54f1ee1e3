// Ends this process within milliseconds, whatever the NAS does. A read that hangs on the NAS occupies a thread of libuv's
// pool, and process.exit() waits for those threads; process 1 of a container cannot kill itself by a signal either. Becoming
// another program ends all threads at once: the node program itself, which is in every image, with nothing to do.
// Only a thread that the kernel lets nobody end (FUSE; never its NFS client) is still waited for.

/**
 * Does not return. Exit handlers do not run: everything that must be told has been told.
 * @param mayHang a file operation may be hanging that Node does not tell of (one of fs/promises).
 */
export function endProcess(code: number, mayHang: boolean): never {
  const args = code === 0 ? ['node', '--version'] : ['node', '--eval', `process.exit(${Math.trunc(code)})`];
  try {
    process.execve?.(process.execPath, args, {});
  } catch {
    // Refused under --permission without --allow-child-process.
  }
  if (!mayHang && !process.getActiveResourcesInfo().includes('FSReqCallback')) process.exit(code);
  // An abort ends even process 1: the kernel delivers the fault that follows its signal. Exit code 134 or 139.
  process.abort();
}
