// From a zod schema to the structural OpenAPI v3 schema of a CustomResourceDefinition. The zod schemas are the single source
// of truth: types are inferred from them, the YAML and docs/api.md are generated from them. Kubernetes' own keywords
// (`x-kubernetes-…`) are given through meta() and pass through unchanged.
import { z } from 'zod';

/** A JSON schema node as far as structural schemas use it. */
export interface StructuralSchema {
  type?: string;
  description?: string;
  properties?: Record<string, StructuralSchema>;
  required?: string[];
  items?: StructuralSchema;
  additionalProperties?: StructuralSchema | boolean;
  default?: unknown;
  enum?: unknown[];
  [keyword: string]: unknown;
}

/** A rule in the Common Expression Language that the API server enforces. */
export interface ValidationRule {
  rule: string;
  message: string;
}

/** The value of `x-kubernetes-validations`, for meta(). */
export function validated(...rules: ValidationRule[]): { 'x-kubernetes-validations': ValidationRule[] } {
  return { 'x-kubernetes-validations': rules };
}

/** Converts, and refuses what a structural schema cannot hold (a missing type, an unbounded string, list or map). */
export function toStructuralSchema(schema: z.ZodType): StructuralSchema {
  const converted = z.toJSONSchema(schema, { target: 'openapi-3.0', io: 'input' }) as StructuralSchema;
  return clean(converted, '');
}

function clean(node: StructuralSchema, path: string): StructuralSchema {
  const result: StructuralSchema = { ...node };
  if (result.type === 'integer') {
    result['format'] = 'int64';
    // zod bounds integers to what a double holds; etcd holds int64, and a bound of 2^53 explains nothing to a reader.
    if (result['maximum'] === Number.MAX_SAFE_INTEGER) delete result['maximum'];
    if (result['minimum'] === Number.MIN_SAFE_INTEGER) delete result['minimum'];
  }
  if (result['x-kubernetes-int-or-string'] === true) delete result.type;
  else if (result.type === undefined) throw new UnstructuralSchemaError(path, 'has no type');
  if (result.type === 'string' && result['maxLength'] === undefined && result.enum === undefined) {
    if (result['format'] !== 'date-time')
      throw new UnstructuralSchemaError(path, 'is a string without maxLength');
    delete result['pattern'];
  }
  if (result.type === 'array') {
    if (result['maxItems'] === undefined)
      throw new UnstructuralSchemaError(path, 'is a list without maxItems');
    if (result.items !== undefined) result.items = clean(result.items, `${path}[]`);
  }
  if (result.type === 'object') cleanObject(result, path);
  return result;
}

function cleanObject(node: StructuralSchema, path: string): void {
  if (node.properties !== undefined) {
    delete node.additionalProperties;
    node.properties = Object.fromEntries(
      Object.entries(node.properties).map(([name, property]) => [name, clean(property, `${path}.${name}`)]),
    );
    return;
  }
  if (typeof node.additionalProperties !== 'object')
    throw new UnstructuralSchemaError(path, 'is an object of unknown shape');
  if (node['maxProperties'] === undefined)
    throw new UnstructuralSchemaError(path, 'is a map without maxProperties');
  node.additionalProperties = clean(node.additionalProperties, `${path}{}`);
}

/** A schema that Kubernetes would refuse, or that has no bound. Found when the YAML is generated. */
export class UnstructuralSchemaError extends Error {
  readonly code = 'NASMIG_SCHEMA';

  constructor(path: string, problem: string) {
    super(`${path === '' ? 'the schema' : path} ${problem}: give it one in crds/`);
    this.name = 'UnstructuralSchemaError';
  }
}
