import { expect, it } from 'vitest';
import { startCluster, UnknownClusterError } from './start-cluster.ts';

it('names the drivers that there are when it is asked for another', async () => {
  const refused = startCluster({}, 'cloud');
  await expect(refused).rejects.toBeInstanceOf(UnknownClusterError);
  await expect(refused).rejects.toThrow(/"cloud".*lab/);
});
