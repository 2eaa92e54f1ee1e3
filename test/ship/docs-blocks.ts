// The shell blocks of a page of documentation, and how a test treats each. The info string after ``` says it:
//   ```sh                   run by the test, one after the other, in the order of the page
//   ```sh no-run: REASON    not run, because this machine lacks what it needs; the reason stands in the page's source
//   ```sh without-helm      run on a cluster of its own
// Any other block (yaml, promql, text) is not a command. Pure.

export interface Block {
  /** Path of the page in the repository. */
  readonly page: string;
  /** Line of the opening fence, from 1. */
  readonly line: number;
  /** Heading it stands under. */
  readonly section: string;
  readonly script: string;
  readonly mode: 'run' | 'without-helm' | 'no-run';
  /** Why it is not run; empty otherwise. */
  readonly reason: string;
}

/** A page has a shell block that nobody would run. */
export class DocsBlockError extends Error {
  readonly code = 'NASMIG_TEST_DOCS_BLOCK';
  constructor(page: string, line: number, problem: string) {
    super(`${page}:${line}: ${problem}; write \`\`\`sh, or \`\`\`sh no-run: and the reason`);
    this.name = 'DocsBlockError';
  }
}

const SHELLS = new Set(['sh', 'bash', 'shell', 'console', 'shell-session', 'zsh']);

/** In the order of the page. Throws {@link DocsBlockError}. */
export function shellBlocks(page: string, text: string): Block[] {
  const blocks: Block[] = [];
  let section = '';
  let open: { line: number; info: string; fence: string; lines: string[] } | undefined;
  for (const [index, line] of text.split('\n').entries()) {
    if (open === undefined) {
      const heading = /^#{1,6} (.*)$/.exec(line);
      if (heading !== null) section = heading[1] ?? '';
      const fence = /^\s*(```+)(.*)$/.exec(line);
      if (fence !== null)
        open = { line: index + 1, info: (fence[2] ?? '').trim(), fence: fence[1] ?? '', lines: [] };
    } else if (line.trim() === open.fence) {
      const block = blockOf(page, section, open);
      if (block !== undefined) blocks.push(block);
      open = undefined;
    } else open.lines.push(line);
  }
  if (open !== undefined) throw new DocsBlockError(page, open.line, 'the block is not closed');
  return blocks;
}

function blockOf(
  page: string,
  section: string,
  { line, info, lines }: { line: number; info: string; lines: readonly string[] },
): Block | undefined {
  const [language = '', ...words] = info.split(/\s+/);
  if (!SHELLS.has(language)) return undefined;
  const rest = words.join(' ');
  const common = { page, line, section, script: `${lines.join('\n')}\n` };
  if (language !== 'sh') throw new DocsBlockError(page, line, `a block of \`${language}\``);
  if (rest === '') return { ...common, mode: 'run', reason: '' };
  if (rest === 'without-helm') return { ...common, mode: 'without-helm', reason: '' };
  const reason = /^no-run: (\S.*)$/.exec(rest)?.[1];
  if (reason === undefined) throw new DocsBlockError(page, line, `"${rest}" says nothing to the test`);
  return { ...common, mode: 'no-run', reason };
}

/** A link of a page to something in the repository. */
export interface Link {
  readonly page: string;
  readonly line: number;
  /** As written, without the anchor. Empty: the page itself. */
  readonly path: string;
  readonly anchor: string | undefined;
}

/** Links and pictures of a page that lead into the repository; code is left out. */
export function localLinks(page: string, text: string): Link[] {
  const links: Link[] = [];
  let fenced = false;
  for (const [index, raw] of text.split('\n').entries()) {
    if (/^\s*```/.test(raw)) fenced = !fenced;
    if (fenced) continue;
    const line = raw.replace(/`[^`]*`/g, '');
    const targets = [
      ...[...line.matchAll(/\]\(([^()\s]+)(?: "[^"]*")?\)/g)].map((match) => match[1] ?? ''),
      ...[...line.matchAll(/<img [^>]*src="([^"]+)"/g)].map((match) => match[1] ?? ''),
    ];
    for (const target of targets) {
      if (/^[a-z]+:/.test(target)) continue;
      const [path = '', anchor] = target.split('#', 2);
      links.push({ page, line: index + 1, path, anchor });
    }
  }
  return links;
}

/** Anchors of a page's headings, as forges make them. */
export function anchorsOf(text: string): Set<string> {
  const anchors = new Set<string>();
  let fenced = false;
  for (const line of text.split('\n')) {
    if (/^\s*```/.test(line)) fenced = !fenced;
    const heading = fenced ? null : /^#{1,6} (.*)$/.exec(line);
    if (heading === null) continue;
    const anchor = (heading[1] ?? '')
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .trim()
      .replace(/\s/g, '-');
    let unique = anchor;
    for (let n = 1; anchors.has(unique); n++) unique = `${anchor}-${n}`;
    anchors.add(unique);
  }
  return anchors;
}
