// One line that says how it goes: rewritten on a terminal, and a plain line every few seconds in a log.

const PLAIN_EVERY_MS = 5000;

export class LiveLine {
  #lastPlainMs = 0;

  show(elapsedMs: number, line: string): void {
    if (process.stdout.isTTY) process.stdout.write(`\r\x1b[2K  ${line}`);
    else if (elapsedMs - this.#lastPlainMs > PLAIN_EVERY_MS) {
      this.#lastPlainMs = elapsedMs;
      console.log(`  ${line}`);
    }
  }

  end(): void {
    if (process.stdout.isTTY) process.stdout.write('\r\x1b[2K');
  }
}
