// Puts a counter into every branch of a TypeScript module, so that the fuzzer sees which way an input went, and collects the
// constants that the module compares with. Works on source text: what is inserted stays on its line, so that stack traces keep
// their line numbers. No branch changes what it does.
import { parseAst } from 'rolldown/parseAst';

/** Counters are read from this property of the global object. */
export const COUNTERS = '__nasmigBranchCounters';

/** A branch that has a counter. */
export interface BranchPoint {
  readonly file: string;
  readonly line: number;
}

export interface Instrumented {
  readonly code: string;
  readonly points: readonly BranchPoint[];
  /** Whole numbers and texts of the module, as they would lie in an input. */
  readonly constants: readonly Uint8Array[];
}

interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [key: string]: unknown;
}

/** Texts of this length can be a magic, a key or a name; longer ones are messages. */
const MAX_TEXT_CONSTANT = 48;

/**
 * @param file name for the points.
 * @param firstCounter number of the module's first counter.
 * Throws SyntaxError when `source` is not TypeScript.
 */
export function instrument(source: string, file: string, firstCounter: number): Instrumented {
  const points: BranchPoint[] = [];
  // What begins a branch is put in on the way into a node, what ends it on the way out; so nested ones nest.
  const before: { readonly at: number; readonly text: string }[] = [];
  const after: { readonly at: number; readonly text: string }[] = [];
  const constants = new Map<string, Uint8Array>();
  const lineStarts = [0];
  for (let i = 0; i < source.length; i++) if (source[i] === '\n') lineStarts.push(i + 1);

  const count = (at: number): string => {
    let line = lineStarts.findIndex((start) => start > at);
    if (line < 0) line = lineStarts.length;
    points.push({ file, line });
    return `${COUNTERS}[${firstCounter + points.length - 1}]++`;
  };
  const enterStatement = (body: Node): void => {
    if (body.type === 'BlockStatement') before.push({ at: body.start + 1, text: `${count(body.start)};` });
    else before.push({ at: body.start, text: `{${count(body.start)};` });
  };
  const leaveStatement = (body: Node): void => {
    if (body.type !== 'BlockStatement') after.push({ at: body.end, text: '}' });
  };
  const walkStatement = (body: Node): void => {
    enterStatement(body);
    walk(body);
    leaveStatement(body);
  };
  const walkExpression = (expression: Node): void => {
    before.push({ at: expression.start, text: `(${count(expression.start)},` });
    walk(expression);
    after.push({ at: expression.end, text: ')' });
  };

  function walk(node: Node): void {
    switch (node.type) {
      case 'IfStatement': {
        walk(node['test'] as Node);
        walkStatement(node['consequent'] as Node);
        const alternate = node['alternate'] as Node | null;
        if (alternate !== null) walkStatement(alternate);
        else after.push({ at: node.end, text: `else{${count(node.end - 1)}}` });
        return;
      }
      case 'ConditionalExpression':
        walk(node['test'] as Node);
        walkExpression(node['consequent'] as Node);
        walkExpression(node['alternate'] as Node);
        return;
      case 'LogicalExpression':
        walk(node['left'] as Node);
        walkExpression(node['right'] as Node);
        return;
      case 'ForStatement':
      case 'ForOfStatement':
      case 'ForInStatement':
      case 'WhileStatement':
      case 'DoWhileStatement':
        for (const key of ['init', 'test', 'update', 'left', 'right']) walkAny(node[key]);
        walkStatement(node['body'] as Node);
        return;
      case 'SwitchCase': {
        walkAny(node['test']);
        const first = (node['consequent'] as Node[])[0];
        before.push({ at: first === undefined ? node.end : first.start, text: `${count(node.start)};` });
        walkAny(node['consequent']);
        return;
      }
      case 'CatchClause':
        walkAny(node['param']);
        walkStatement(node['body'] as Node);
        return;
      case 'ArrowFunctionExpression':
      case 'FunctionExpression':
      case 'FunctionDeclaration': {
        walkAny(node['params']);
        const body = node['body'] as Node | null;
        // Declarations of overloads have none.
        if (body === null) return;
        if (body.type === 'BlockStatement' || body.type === 'FunctionBody') {
          before.push({ at: body.start + 1, text: `${count(body.start)};` });
          walk(body);
        } else walkExpression(body);
        return;
      }
      case 'Literal':
        addConstant(constants, node['value']);
        return;
      case 'ImportDeclaration':
      case 'TSInterfaceDeclaration':
      case 'TSTypeAliasDeclaration':
      case 'TSTypeAnnotation':
        return;
      default:
        for (const key of Object.keys(node)) walkAny(node[key]);
    }
  }
  function walkAny(value: unknown): void {
    if (Array.isArray(value)) for (const one of value) walkAny(one);
    else if (value !== null && typeof value === 'object' && 'type' in value) walk(value as Node);
  }

  walk(parseAst(source, { lang: 'ts' }) as unknown as Node);
  const inserts = [
    ...after.map((insert, order) => ({ ...insert, order })),
    ...before.map((insert, order) => ({ ...insert, order: order + after.length })),
  ].sort((a, b) => a.at - b.at || a.order - b.order);
  let code = `const ${COUNTERS}=globalThis.${COUNTERS};`;
  let from = 0;
  for (const { at, text } of inserts) {
    code += source.slice(from, at) + text;
    from = at;
  }
  code += source.slice(from);
  return { code, points, constants: [...constants.values()] };
}

function addConstant(constants: Map<string, Uint8Array>, value: unknown): void {
  if (typeof value === 'string') {
    if (value.length >= 2 && value.length <= MAX_TEXT_CONSTANT) put(constants, Buffer.from(value));
    return;
  }
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 2 || value >= 2 ** 53) return;
  if (value < 2 ** 8) return; // the mutator sets single bytes anyway
  for (const around of [value - 1, value, value + 1]) {
    if (around < 2 ** 16) put(constants, u(around, 2));
    if (around < 2 ** 32) put(constants, u(around, 4));
    else put(constants, u(around, 8));
  }
}

function put(constants: Map<string, Uint8Array>, bytes: Buffer): void {
  constants.set(bytes.toString('hex'), bytes);
}

/** Big-endian, as everything on both wires is. */
function u(value: number, width: 2 | 4 | 8): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes.subarray(8 - width);
}
