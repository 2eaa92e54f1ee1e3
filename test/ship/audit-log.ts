// What an account asked the API server for, from its audit log, in the words of RBAC; and which rules that leaves unused.
import { readFile } from 'node:fs/promises';
import type { PolicyRule } from '../../operator/permissions.ts';

export interface Asked {
  verb: string;
  apiGroup: string;
  /** With its subresource, `nasawaremigrations/status`. */
  resource: string;
  namespace: string;
  name: string;
  status: number;
}

interface AuditEvent {
  verb: string;
  objectRef?: {
    apiGroup?: string;
    resource?: string;
    subresource?: string;
    namespace?: string;
    name?: string;
  };
  responseStatus?: { code?: number };
}

/** Every request in the log that was about a resource. */
export async function askedFor(auditLog: string): Promise<Asked[]> {
  const lines = (await readFile(auditLog, 'utf8')).split('\n').filter((line) => line !== '');
  return lines.flatMap((line) => {
    const { verb, objectRef, responseStatus } = JSON.parse(line) as AuditEvent;
    if (objectRef?.resource === undefined) return [];
    const { resource, subresource, apiGroup = '', namespace = '', name = '' } = objectRef;
    return {
      verb,
      apiGroup,
      resource: subresource === undefined ? resource : `${resource}/${subresource}`,
      namespace,
      name,
      status: responseStatus?.code ?? 0,
    };
  });
}

/** Each permission that `rules` give and nobody asked for, as `verb resource`. */
export function unused(rules: readonly PolicyRule[], asked: readonly Asked[]): string[] {
  const found = new Set<string>();
  for (const { apiGroups, resources, verbs, resourceNames } of rules) {
    for (const resource of resources) {
      for (const verb of verbs) {
        const isUsed = asked.some(
          (one) =>
            apiGroups.includes(one.apiGroup) &&
            one.resource === resource &&
            one.verb === verb &&
            (resourceNames === undefined || resourceNames.includes(one.name)),
        );
        if (!isUsed) found.add(`${verb} ${resource}`);
      }
    }
  }
  return [...found].sort();
}
