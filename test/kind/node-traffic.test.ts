import { describe, expect, it } from 'vitest';
import { nasBytes, nasCommands, sentBytes, workerBytes, workerCommands } from './node-traffic.ts';

describe('commands for tc', () => {
  it('shape what goes to the other virt-handler, and count what goes to the NAS', () => {
    const commands = workerCommands({ interface: 'eth0', peerHandler: '10.244.2.3', linkMbit: 400 });
    const lines = commands.map((command) => command.join(' '));
    expect(lines[0]).toBe('tc qdisc add dev eth0 root handle 1: htb default 1');
    expect(lines).toContain(
      'tc class add dev eth0 parent 1: classid 1:2 htb rate 400mbit burst 500000 cburst 500000',
    );
    expect(lines).toContain(
      'tc filter add dev eth0 parent 1: protocol ip prio 2 u32 match ip dst 10.244.2.3/32 flowid 1:2',
    );
    expect(lines.at(-1)).toBe(
      'tc filter add dev eth0 parent 1: protocol ip prio 3 u32 match ip protocol 6 0xff match ip dport 2049 0xffff flowid 1:3',
    );
  });

  it('give each worker a class of its own at the NAS, numbered in hexadecimal', () => {
    const lines = nasCommands({ interface: 'eth0', workers: ['172.18.0.3', '172.18.0.4'], nasMbit: 0 }).map(
      (command) => command.join(' '),
    );
    expect(lines.filter((line) => line.includes('classid 1:10 '))).toHaveLength(1);
    expect(lines.filter((line) => line.includes('flowid 1:11'))).toEqual([
      expect.stringContaining('match ip dst 172.18.0.4/32 match ip sport 2049 0xffff'),
    ]);
    expect(lines.every((line) => !/rate 0mbit/.test(line))).toBe(true);
  });
});

describe('the answer of tc', () => {
  const answer = [
    'class htb 1:11 root prio 0 rate 100Gbit ceil 100Gbit burst 125000000b cburst 125000000b ',
    ' Sent 8 bytes 1 pkt (dropped 0, overlimits 0 requeues 0) ',
    ' backlog 0b 0p requeues 0',
    'class htb 1:2 root prio 0 rate 400Mbit ceil 400Mbit burst 500000b cburst 500000b ',
    ' Sent 1000 bytes 2 pkt (dropped 0, overlimits 0 requeues 0) ',
    'class htb 1:3 root prio 0 rate 100Gbit ceil 100Gbit burst 125000000b cburst 125000000b ',
    ' Sent 50 bytes 1 pkt (dropped 0, overlimits 0 requeues 0) ',
    'class htb 1:10 root prio 0 rate 100Gbit ceil 100Gbit burst 125000000b cburst 125000000b ',
    ' Sent 7 bytes 1 pkt (dropped 0, overlimits 0 requeues 0) ',
    '',
  ].join('\n');

  it('is read by class', () => {
    expect(sentBytes(answer)).toEqual(
      new Map([
        [2, 1000],
        [3, 50],
        [16, 7],
        [17, 8],
      ]),
    );
    expect(workerBytes(answer)).toEqual({ migration: 1000, toNas: 50 });
    expect(nasBytes(answer, 2)).toEqual([7, 8]);
  });

  it('that lacks a class is an error, not zero bytes', () => {
    expect(() => workerBytes('')).toThrow('there is no class 1:2');
    expect(() => nasBytes(answer, 3)).toThrow('there is no class 1:12');
  });
});
