// Breaks one part of a migration under way, and mends what a fault left broken: processes by signal, the NAS by what its server
// and its files do, links by their queues, disks by filling them, memory by the cgroup's limit.

import { open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ProcessMemory } from '../lab/cgroup.ts';
import { runCommand } from '../lab/run-command.ts';
import { LabCoordinator } from '../launcher/coordinator.ts';
import type { RecordedMigration } from '../launcher/recorded-migration.ts';
import type { Home, TravellingGuest } from '../launcher/travelling-guest.ts';
import type { Fault } from './expected-outcomes.ts';
import type { PlannedFault } from './fault-plan.ts';

/** Of a NAS that is slow: less than a hundredth of what the lab's gives. */
const SLOW_NAS_MBIT = 8;
/** Long enough for every time limit of the NAS reader, and for a person to call it an outage. */
const NAS_OUTAGE_MS = 6_000;
/** A link that comes back before anybody gives up. */
const LINK_STALL_MS = 3_000;
/** The superblock and the journal are left alone: the guest's kernel looks at them. */
const STALE_FROM_BYTES = 64 * 1024 * 1024;
/** One file that takes what is left, and empty ones for the names. */
const FILLER = 'filler';
const MOST_FILLERS = 1000;
const FILL_CHUNK = Buffer.alloc(64 * 1024, 0x5a);

const MOST_CANCELS = 20;
const CANCEL_EVERY_MS = 50;

export interface Scene {
  readonly guest: TravellingGuest;
  readonly source: Home;
  readonly target: Home;
  readonly migration: RecordedMigration;
  readonly planned: PlannedFault;
  /** A copy of the volume as it is now, for what is made stale. */
  readonly volumeCopy: string;
  /** File of the volume in the NAS's export. */
  readonly volumeFile: string;
}

export interface Injected {
  /** In words, for the record. */
  readonly what: string;
  /** After this long the fault ends by itself; undefined: only when the migration has ended. */
  readonly lastsMs?: number;
  /** Undoes it. Called once. */
  readonly mend: () => Promise<void>;
}

const nothing = async (): Promise<void> => undefined;

/** Does it. Resolves when it is done, which for a signal is when it is sent. */
export async function inject(fault: Fault, scene: Scene): Promise<Injected> {
  const { guest, source, target, migration } = scene;
  const { nas, network } = guest.lab.lab;
  const { proxies } = migration.migration;
  switch (fault) {
    case 'source-sidecar-killed':
      return killSidecar(guest, source, 'source');
    case 'target-sidecar-killed':
      return killSidecar(guest, target, 'target');
    case 'sidecar-out-of-memory':
      return scene.planned.position < 0.5 ? starve(guest, source, 'source') : starve(guest, target, 'target');
    case 'coordinator-killed': {
      await guest.coordinator.stop();
      return { what: 'the coordinator is gone', mend: () => succeedCoordinator(guest) };
    }
    case 'source-proxy-killed':
      proxies.source.process('stream').signal('SIGKILL');
      return { what: 'SIGKILL to the source proxy', mend: nothing };
    case 'target-proxy-killed':
      proxies.target.process('stream').signal('SIGKILL');
      return { what: 'SIGKILL to the target proxy', mend: nothing };
    case 'source-libvirt-connection-killed':
      proxies.source.process('rpc').signal('SIGKILL');
      return { what: "SIGKILL to the source's libvirt proxy", mend: nothing };
    case 'target-libvirt-connection-killed':
      proxies.target.process('rpc').signal('SIGKILL');
      return { what: "SIGKILL to the target's libvirt proxy", mend: nothing };
    case 'nas-stopped':
      await nas.stop(false);
      return { what: 'the NFS server is gone', lastsMs: NAS_OUTAGE_MS, mend: () => nas.restart() };
    case 'nas-frozen':
      nas.pause();
      return {
        what: 'the NFS server does not answer',
        lastsMs: NAS_OUTAGE_MS,
        mend: async () => nas.resume(),
      };
    case 'nas-slow': {
      const place = guest.lab.placeOf(target.pod);
      await network.setStorageRate(place, { outMbit: SLOW_NAS_MBIT, inMbit: SLOW_NAS_MBIT });
      return {
        what: `the target's way to the NAS has ${SLOW_NAS_MBIT} Mbit/s`,
        mend: () => network.setStorageRate(place, { outMbit: 0, inMbit: 0 }),
      };
    }
    case 'nas-restarted':
      await nas.restart();
      return { what: 'the NFS server was stopped and started again', mend: nothing };
    case 'nas-errors':
      return refuseReads(guest);
    case 'nas-stale':
      return makeStale(scene);
    case 'link-cut':
      await network.setMigrationLinkUp(false);
      return { what: 'the migration link is cut', mend: () => network.setMigrationLinkUp(true) };
    case 'link-stalled':
      await network.setMigrationLinkUp(false);
      return {
        what: `the migration link is cut for ${LINK_STALL_MS} ms`,
        lastsMs: LINK_STALL_MS,
        mend: () => network.setMigrationLinkUp(true),
      };
    case 'disk-full':
      return fillDisks([source, target]);
    case 'cancelled':
      return cancel(migration);
  }
}

/** libvirt knows nothing to cancel until it has begun, or when it is over. */
async function cancel({ migration }: RecordedMigration): Promise<Injected> {
  for (let attempt = 1; attempt <= MOST_CANCELS; attempt++) {
    try {
      await migration.cancel();
      return { what: `cancelled at the ${attempt}. attempt`, mend: nothing };
    } catch {
      await sleep(CANCEL_EVERY_MS);
    }
  }
  return { what: 'there was nothing to cancel', mend: nothing };
}

function killSidecar(guest: TravellingGuest, home: Home, role: string): Injected {
  home.sidecar?.signal('SIGKILL');
  return { what: `SIGKILL to the ${role} sidecar`, mend: () => restartDead(guest, home) };
}

/** The kubelet starts a container that died again. */
async function restartDead(guest: TravellingGuest, home: Home): Promise<void> {
  if (home.sidecar === undefined || (await home.sidecar.process.endsWithin(0)) === null) {
    if ((await home.sidecar?.process.endsWithin(2_000)) === null) return;
  }
  await guest.startSidecar(home);
}

/** Its cgroup may not grow any more: the kernel ends it, at once or when it asks for another page. */
async function starve(guest: TravellingGuest, home: Home, role: string): Promise<Injected> {
  const pid = home.sidecar?.initPid;
  if (pid === undefined) throw new Error(`the ${role} has no sidecar to starve`);
  const memory = await ProcessMemory.of(pid);
  const used = await memory.usedBytes();
  // The kernel of cgroup v1 refuses a limit below what it cannot take back.
  for (const share of [0.6, 0.8, 0.9, 1, 1.02]) {
    try {
      await memory.limit(Math.round(used * share));
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY') throw error;
    }
  }
  return {
    what: `no more memory for the ${role} sidecar (${(used / 2 ** 20).toFixed(0)} MiB in use)`,
    mend: async () => {
      if (home.sidecar?.process.running) await memory.unlimit().catch(() => undefined);
      await restartDead(guest, home);
    },
  };
}

/** The next leader: same address, CA and pods, a later epoch. */
async function succeedCoordinator(guest: TravellingGuest): Promise<void> {
  guest.coordinator = await LabCoordinator.start(join(guest.lab.lab.run.path, 'hub'), {
    after: guest.coordinator,
  });
  await guest.coordinator.waitForConnection(guest.home.admitted);
}

/** The server's configuration does not let its clients in any longer: every call is answered with an error. */
async function refuseReads(guest: TravellingGuest): Promise<Injected> {
  const { nas } = guest.lab.lab;
  const file = nas.node.file('ganesha.conf');
  const before = await readFile(file, 'utf8');
  await writeFile(file, before.replace(/Export_Id = 1;/, 'Export_Id = 1; Access_Type = NONE;'));
  nas.process.signal('SIGHUP');
  return {
    what: 'the NFS server refuses every call',
    lastsMs: NAS_OUTAGE_MS,
    mend: async () => {
      await writeFile(file, before);
      nas.process.signal('SIGHUP');
    },
  };
}

/** The volume's blocks are, all of a sudden, those of a time before anything was written to them. */
async function makeStale({ guest, volumeFile, volumeCopy }: Scene): Promise<Injected> {
  const path = guest.lab.lab.nas.file(volumeFile);
  const { size } = await stat(path);
  await runCommand([
    ...['fallocate', '--punch-hole', '--keep-size', '--offset', String(STALE_FROM_BYTES)],
    ...['--length', String(size - STALE_FROM_BYTES), path],
  ]);
  return {
    what: 'the NAS has old data in the volume',
    mend: async () => {
      const block = 4 * 1024 * 1024;
      const skip = String(STALE_FROM_BYTES / block);
      await runCommand(
        [
          'dd',
          `if=${volumeCopy}`,
          `of=${path}`,
          `bs=${block}`,
          `skip=${skip}`,
          `seek=${skip}`,
          'conv=notrunc,sparse',
        ],
        { timeoutMs: 60_000 },
      );
    },
  };
}

/** Both pods' `public` volumes have no byte and no name left. */
async function fillDisks(homes: readonly Home[]): Promise<Injected> {
  const fillers: string[] = [];
  for (const home of homes) {
    const directory = home.pod.publicDirectoryFromHost;
    fillers.push(join(directory, FILLER));
    await fillBytes(join(directory, FILLER));
    for (let number = 0; number < MOST_FILLERS; number++) {
      const name = join(directory, `${FILLER}-${number}`);
      try {
        await writeFile(name, '');
        fillers.push(name);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOSPC') break;
        throw error;
      }
    }
  }
  return {
    what: "both pods' public volumes are full",
    mend: async () => {
      for (const name of fillers) await rm(name, { force: true });
    },
  };
}

async function fillBytes(name: string): Promise<void> {
  const file = await open(name, 'w');
  try {
    for (;;) await file.write(FILL_CHUNK);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
  } finally {
    await file.close();
  }
}
