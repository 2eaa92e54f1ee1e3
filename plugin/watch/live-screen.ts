// The terminal's other screen while a view is live: drawn anew in place, no cursor, no echo of keys. Whatever ends the program, the
// terminal is left as it was: cursor shown, first screen back, line mode. q and Ctrl-C end it, Ctrl-Z stops it as usual.
import type { ReadStream, WriteStream } from 'node:tty';

const ENTER = '\u001b[?1049h\u001b[?25l';
const LEAVE = '\u001b[?25h\u001b[?1049l';
const HOME = '\u001b[H';
const TO_LINE_END = '\u001b[K';
const TO_SCREEN_END = '\u001b[J';
const CTRL_C = '\u0003';
const CTRL_Z = '\u001a';

export interface LiveScreenOptions {
  input: ReadStream;
  output: WriteStream;
  /** Ctrl-C. */
  onInterrupt: () => void;
  /** q. */
  onQuit: () => void;
  /** The size changed, or the program goes on after Ctrl-Z. */
  onRedraw: () => void;
}

export class LiveScreen {
  readonly #options: LiveScreenOptions;
  #isOpen = false;

  constructor(options: LiveScreenOptions) {
    this.#options = options;
  }

  get rows(): number {
    return this.#options.output.rows || 24;
  }

  get columns(): number {
    return this.#options.output.columns || 80;
  }

  open(): void {
    if (this.#isOpen) return;
    this.#isOpen = true;
    const { input, output, onRedraw } = this.#options;
    output.write(ENTER);
    output.on('resize', onRedraw);
    process.on('exit', this.#leave);
    process.on('SIGCONT', this.#continue);
    if (input.isTTY) {
      input.setRawMode(true);
      input.on('data', this.#onKeys);
      input.resume();
    }
  }

  draw(lines: readonly string[]): void {
    if (!this.#isOpen) return;
    const text = lines.map((line) => `${line}${TO_LINE_END}`).join('\r\n');
    this.#options.output.write(`${HOME}${text}${TO_SCREEN_END}`);
  }

  close(): void {
    if (!this.#isOpen) return;
    const { input, output, onRedraw } = this.#options;
    this.#leave();
    output.off('resize', onRedraw);
    process.off('exit', this.#leave);
    process.off('SIGCONT', this.#continue);
    if (input.isTTY) {
      input.off('data', this.#onKeys);
      input.pause();
    }
  }

  /** Also from 'exit', where nothing asynchronous is done any more. */
  readonly #leave = (): void => {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    const { input, output } = this.#options;
    if (input.isTTY) input.setRawMode(false);
    output.write(LEAVE);
  };

  readonly #continue = (): void => {
    const { input, output, onRedraw } = this.#options;
    this.#isOpen = true;
    if (input.isTTY) input.setRawMode(true);
    output.write(ENTER);
    onRedraw();
  };

  readonly #onKeys = (keys: Buffer): void => {
    for (const key of keys.toString('latin1')) {
      if (key === CTRL_C) this.#options.onInterrupt();
      else if (key === 'q') this.#options.onQuit();
      else if (key === CTRL_Z) {
        this.#leave();
        process.kill(process.pid, 'SIGTSTP');
      }
    }
  };
}
