// Migrations in a ship cluster whose operator runs: KubeVirt and kubelet are played through the API, sidecars are real connections to the
// hub, and no stream is there.
import type { V1ConfigMap, V1Pod } from '@kubernetes/client-node';
import { expect } from 'vitest';
import { resources } from '../../operator/kubernetes/resources.ts';
import { AUTHORITY_CONFIG_MAP } from '../../operator/operator.ts';
import { FakeSidecar } from '../control-plane/fake-sidecar.ts';
import type { KubevirtActor, Vm } from '../control-plane/kubevirt-actor.ts';
import type { ShipCluster } from './cluster.ts';
import type { OperatorProcess } from './operator-process.ts';

export class PlayedMigrations {
  readonly #cluster: ShipCluster;
  readonly #kubevirt: KubevirtActor;
  readonly #operator: () => OperatorProcess;
  readonly #sidecars: FakeSidecar[] = [];

  /** @param operator the one that leads now. */
  constructor(cluster: ShipCluster, kubevirt: KubevirtActor, operator: () => OperatorProcess) {
    this.#cluster = cluster;
    this.#kubevirt = kubevirt;
    this.#operator = operator;
  }

  /** A sidecar of this pod, connected. */
  async sidecarOf(pod: V1Pod): Promise<FakeSidecar> {
    const { namespace = '' } = pod.metadata ?? {};
    const { ports, log } = this.#operator();
    const map = await this.#cluster.eventually(async () => {
      const found = await this.#cluster.get<V1ConfigMap>(
        resources.configMaps,
        namespace,
        AUTHORITY_CONFIG_MAP,
      );
      if (found === undefined) throw new Error(`no CA in ${namespace}\n${log}`);
      return found;
    });
    const sidecar = await FakeSidecar.start({
      api: this.#cluster.api,
      pod,
      hubUrl: `wss://127.0.0.1:${ports.hub}`,
      caPem: map.data?.['ca.crt'] ?? '',
    });
    this.#sidecars.push(sidecar);
    await this.#cluster.eventually(() => expect(sidecar.client.connected).toBe(true));
    return sidecar;
  }

  /** From the KubeVirt migration that is there to its success. `source`: the VM's sidecar, when it is connected already. */
  async moved(vm: Vm, to: string, source?: FakeSidecar): Promise<{ vm: Vm; target: FakeSidecar }> {
    const from = source ?? (await this.sidecarOf(vm.pod));
    const vmim = await this.#kubevirt.migrationOf(vm);
    const targetPod = await this.#kubevirt.handOff(vm, vmim, to);
    const target = await this.sidecarOf(targetPod);
    await this.#cluster.eventually(() => {
      expect(from.state.phase).toBe('armed');
      expect(target.state.phase).toBe('armed');
    });
    from.connect();
    await this.#cluster.eventually(() => expect(from.framed).toBe(true));
    target.connect();
    from.finish();
    target.finish();
    return { vm: await this.#kubevirt.succeed(vm, vmim, targetPod, to), target };
  }

  async stop(): Promise<void> {
    await Promise.all(this.#sidecars.splice(0).map((sidecar) => sidecar.stop()));
  }
}
