import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const repository = path.resolve(import.meta.dirname, '..');

describe('make help', () => {
  it('lists every target, with what it does', () => {
    const makefile = readFileSync(path.join(repository, 'Makefile'), 'utf8');
    const targets = /^\.PHONY: (.*)$/m.exec(makefile)?.[1]?.split(' ') ?? [];
    const defined = [...makefile.matchAll(/^([^\s:#=.]+):(?!=)/gm)].map((match) => match[1]);
    expect(targets.toSorted()).toEqual(defined.toSorted());
    const help = execFileSync('make', ['--silent', 'help'], { cwd: repository, encoding: 'utf8' });
    const listed = [...help.matchAll(/^ {2}make (\S+) +\S.+$/gm)].map((match) => match[1]);
    expect(listed.toSorted()).toEqual(targets.toSorted());
  });
});
