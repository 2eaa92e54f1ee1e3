// The network of a pod: one veth to its node, an address at each end, the node as gateway. Nothing leads further;
// what a pod is to reach beyond its node (the operator's hub) is passed on by a proxy on the node.

import type { LabNode } from '../lab/node.ts';

/** Addresses of a pod's link. `number` is 1 to 254, unique on the node. */
export function podAddresses(number: number): { pod: string; node: string } {
  if (!Number.isInteger(number) || number < 1 || number > 254) {
    throw new RangeError(`pod number ${number} does not fit into an address; a lab has room for 254 pods`);
  }
  return { pod: `10.78.${number}.2`, node: `10.78.${number}.1` };
}

/** Joins the network namespace of process `pid` to that of the node. It goes with either. */
export async function connectPodNetwork(node: LabNode, pid: number, number: number): Promise<void> {
  const { pod, node: gateway } = podAddresses(number);
  const script = [
    'ip link add "pod$2" type veth peer name eth0 netns "$1"',
    'ip addr add "$3/30" dev "pod$2"',
    'ip link set "pod$2" up',
    'nsenter "--net=/proc/$1/ns/net" ip addr add "$4/30" dev eth0',
    'nsenter "--net=/proc/$1/ns/net" ip link set eth0 up',
    'nsenter "--net=/proc/$1/ns/net" ip route add default via "$3"',
  ].join('\n');
  await node.run(['sh', '-ec', script, 'sh', String(pid), String(number), gateway, pod]);
}
