// The volumes of a migration as the link's HELLO tells them. Positions are the volume numbers of index and readers, so a
// volume that the operator does not let this migration use stays in the list, with no size: nothing can be referenced in it.

export function allowedVolumes(
  volumes: readonly { readonly name: string; readonly sizeBytes: number }[],
  names: readonly string[],
): { name: string; sizeBytes: number }[] {
  return volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes: names.includes(name) ? sizeBytes : 0 }));
}
