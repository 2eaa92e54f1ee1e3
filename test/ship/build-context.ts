// What `docker build` is given: a copy of this tree without what .dockerignore leaves out. The image is assembled from it, so that a
// file that the build needs and .dockerignore forgets fails the tests and not the first person who builds the image.
import { cp, mkdir, readdir, readFile, rm, symlink } from 'node:fs/promises';
import path from 'node:path';
import { repositoryRoot } from '../../hack/ship/tools.ts';

interface Pattern {
  readonly glob: string;
  readonly expression: RegExp;
  /** `!…`: what it matches is in the context after all. */
  readonly isException: boolean;
}

/** The lines of a .dockerignore. */
export function ignorePatterns(text: string): Pattern[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const glob = line.replace(/^!/, '');
      return { glob, expression: expressionOf(glob), isException: line.startsWith('!') };
    });
}

/** `**` is any number of folders, `*` any part of a name, also of one that begins with a dot, which Node's own globs leave out. */
function expressionOf(glob: string): RegExp {
  const source = glob
    .replaceAll(/[.+^${}()|[\]\\]/g, String.raw`\$&`)
    .replaceAll('**/', '\0')
    .replaceAll('*', '[^/]*')
    .replaceAll('?', '[^/]')
    .replaceAll('\0', '(?:.*/)?');
  return new RegExp(`^${source}$`);
}

/** As Docker has it: a pattern is also about all that lies below what it matches, and the last that matches wins. */
export function isInContext(file: string, patterns: readonly Pattern[]): boolean {
  const parts = file.split('/');
  const above = parts.map((_, at) => parts.slice(0, at + 1).join('/'));
  const last = patterns.findLast(({ expression }) => above.some((one) => expression.test(one)));
  return last?.isException ?? true;
}

/** Copies the context to `destination`, which is emptied first, and links the packages that `npm install` would put there. */
export async function copyBuildContext(destination: string): Promise<void> {
  const patterns = ignorePatterns(await readFile(path.join(repositoryRoot, '.dockerignore'), 'utf8'));
  const exceptions = patterns.filter(({ isException }) => isException).map(({ glob }) => glob);
  await rm(destination, { recursive: true, force: true });
  await mkdir(destination, { recursive: true });
  const copy = async (directory: string): Promise<void> => {
    for (const entry of await readdir(path.join(repositoryRoot, directory), { withFileTypes: true })) {
      const name = path.posix.join(directory, entry.name);
      const isIn = isInContext(name, patterns);
      if (entry.isDirectory()) {
        if (isIn || exceptions.some((glob) => glob.startsWith(`${name}/`))) await copy(name);
      } else if (isIn) {
        await cp(path.join(repositoryRoot, name), path.join(destination, name));
      }
    }
  };
  await copy('.');
  await symlink(path.join(repositoryRoot, 'node_modules'), path.join(destination, 'node_modules'));
}
