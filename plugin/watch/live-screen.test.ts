import { execFile } from 'node:child_process';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const LEAVE = '\u001b[?25h\u001b[?1049l';

/** What a program that opens the screen and then does `then` writes. */
function written(then: string): Promise<{ stdout: string; code: number | null }> {
  const program = `
    import { LiveScreen } from ${JSON.stringify(path.join(import.meta.dirname, 'live-screen.ts'))};
    const screen = new LiveScreen({ input: process.stdin, output: process.stdout, onInterrupt() {}, onQuit() {}, onRedraw() {} });
    screen.open();
    screen.draw(['one', 'two']);
    ${then}`;
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      ['--input-type=module-typescript', '--eval', program],
      { timeout: 20_000 },
      (_error, stdout) => resolve({ stdout, code: child.exitCode }),
    );
  });
}

describe('a live screen', () => {
  it('is drawn over, line by line, and left once', async () => {
    const { stdout, code } = await written('screen.close(); screen.close();');
    expect(stdout).toBe(`\u001b[?1049h\u001b[?25l\u001b[Hone\u001b[K\r\ntwo\u001b[K\u001b[J${LEAVE}`);
    expect(code).toBe(0);
  });

  it('is left, however the program ends', async () => {
    expect((await written('process.exit(3);')).stdout.endsWith(LEAVE)).toBe(true);
    const crashed = await written("throw new Error('a defect');");
    expect(crashed.stdout.endsWith(LEAVE)).toBe(true);
    expect(crashed.code).toBe(1);
  });

  it('draws nothing once it is left', async () => {
    expect((await written("screen.close(); screen.draw(['late']);")).stdout).not.toContain('late');
  });
});
