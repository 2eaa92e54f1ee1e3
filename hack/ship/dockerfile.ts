// What the Dockerfile's last stage says of the process in a container. The lab starts its sidecars with it, so that what is tested has the
// options and the environment of what is shipped.
import { readFileSync } from 'node:fs';

export interface ImageConfiguration {
  readonly entrypoint: readonly string[];
  /** What the entry point is given when the container names no arguments. */
  readonly cmd: readonly string[];
  /** Of it, what comes before the program: options of Node. */
  readonly nodeOptions: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

const DOCKERFILE = new URL('../../Dockerfile', import.meta.url);

/** @throws Error when there is no ENTRYPOINT or CMD in the form of a JSON list. */
export function imageConfiguration(text = readFileSync(DOCKERFILE, 'utf8')): ImageConfiguration {
  const lines = text.replaceAll(/\\\n\s*/g, '').split('\n');
  const stage = lines.slice(lines.findLastIndex((line) => line.startsWith('FROM ')));
  const list = (name: string): string[] => {
    const line = stage.findLast((one) => one.startsWith(`${name} [`));
    if (line === undefined) throw new Error(`the Dockerfile's last stage has no ${name} that is a JSON list`);
    return JSON.parse(line.slice(name.length)) as string[];
  };
  const env: Record<string, string> = {};
  for (const line of stage.filter((one) => one.startsWith('ENV '))) {
    for (const [, name = '', value = ''] of line.matchAll(/(\w+)=(\S*)/g)) env[name] = value;
  }
  const cmd = list('CMD');
  return { entrypoint: list('ENTRYPOINT'), cmd, nodeOptions: cmd.slice(0, -1), env };
}
