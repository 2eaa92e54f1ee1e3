// A NasAwareMigration as the operator reads it, and when it was made, by which people sort.
import {
  type MigrationObject,
  type Migration as OperatorMigration,
  readMigration as readAsOperator,
} from '../../operator/controller/snapshot.ts';

/** `creationMs`: by the API server's clock; 0 when it is not said. */
export type Migration = Omit<OperatorMigration, 'firstSeenMs'> & { creationMs: number };

export type { MigrationObject };

/** Undefined for an object of another schema version. */
export function readMigration(object: MigrationObject): Migration | undefined {
  const read = readAsOperator(object);
  if (read === undefined) return undefined;
  return { ...read, creationMs: Date.parse(String(object.metadata?.creationTimestamp ?? '')) || 0 };
}
