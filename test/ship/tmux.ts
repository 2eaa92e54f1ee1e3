// A real terminal for programs that draw: a shell in tmux, on a server of its own. Keys go in, the picture comes out. Every call has a
// deadline; close() ends the server and all in it.
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';

const CALL_MS = 10_000;
const WAIT_MS = 40_000;
const PROMPT = 'ready>';

/** tmux is not there. */
export class TmuxMissingError extends Error {
  readonly code = 'NASMIG_TEST_TMUX';

  constructor() {
    super('tmux is not installed; run hack/setup.sh ship, or apt-get install tmux');
    this.name = 'TmuxMissingError';
  }
}

export class Tmux {
  readonly #server: string;
  readonly #environment: Record<string, string>;

  private constructor(server: string, environment: Record<string, string>) {
    this.#server = server;
    this.#environment = environment;
  }

  /** A shell that has this environment alone. Throws {@link TmuxMissingError}. */
  static async start(environment: Record<string, string>, columns = 100, rows = 30): Promise<Tmux> {
    if (!existsSync('/usr/bin/tmux')) throw new TmuxMissingError();
    const tmux = new Tmux(`nasmig-${randomBytes(6).toString('hex')}`, environment);
    await tmux.#call([
      '-f',
      '/dev/null',
      'new-session',
      '-d',
      '-x',
      String(columns),
      '-y',
      String(rows),
      'bash --norc --noprofile',
    ]);
    // What it prints is counted, so nothing of ours may be on the screen that looks like it.
    await tmux.type(`PS1='${PROMPT} '; clear`);
    await tmux.until((picture) => picture.trim() === PROMPT);
    return tmux;
  }

  async close(): Promise<void> {
    await this.#call(['kill-server']).catch(() => {});
  }

  /** A line and Enter. */
  async type(line: string): Promise<void> {
    await this.#call(['send-keys', '-l', line]);
    await this.keys('Enter');
  }

  /** Keys by tmux's names: `C-c`, `q`, `Enter`. */
  async keys(...keys: string[]): Promise<void> {
    await this.#call(['send-keys', ...keys]);
  }

  async resize(columns: number, rows: number): Promise<void> {
    await this.#call(['resize-window', '-x', String(columns), '-y', String(rows)]);
  }

  /** What is on the screen; with `codes`, with its colours. */
  picture(codes = false): Promise<string> {
    return this.#call(['capture-pane', '-p', ...(codes ? ['-e'] : [])]);
  }

  /** Whether the program is on the other screen, and whether the cursor is shown. */
  async mode(): Promise<{ otherScreen: boolean; cursor: boolean }> {
    const [alternate, cursor] = (
      await this.#call(['display-message', '-p', '#{alternate_on} #{cursor_flag}'])
    )
      .trim()
      .split(' ');
    return { otherScreen: alternate === '1', cursor: cursor === '1' };
  }

  /** Waits for a picture; the error shows the last one. */
  async until(holds: (picture: string) => boolean, timeoutMs = WAIT_MS): Promise<string> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const picture = await this.picture();
      if (holds(picture)) return picture;
      if (performance.now() > deadline)
        throw new Error(`not on the screen after ${timeoutMs} ms:\n${holds}\n---\n${picture}---`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  #call(words: readonly string[]): Promise<string> {
    return new Promise((resolve, reject) => {
      execFile(
        'tmux',
        ['-L', this.#server, ...words],
        { timeout: CALL_MS, env: { ...this.#environment, TERM: 'xterm-256color' } },
        (error, stdout, stderr) => {
          if (error === null) resolve(stdout);
          else reject(new Error(`tmux ${words.join(' ')}: ${stderr || error.message}`));
        },
      );
    });
  }
}
