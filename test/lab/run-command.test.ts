import { expect, it } from 'vitest';
import { CommandFailedError, runCommand } from './run-command.ts';

it('gives up in time also on a command whose children hold its output open', async () => {
  const begunMs = performance.now();
  const running = runCommand(['sh', '-c', 'echo begun; sleep 5 & wait'], { timeoutMs: 300 });
  await expect(running).rejects.toThrow(CommandFailedError);
  await expect(running).rejects.toThrow('did not end within 300 ms');
  expect(performance.now() - begunMs).toBeLessThan(3000);
});
