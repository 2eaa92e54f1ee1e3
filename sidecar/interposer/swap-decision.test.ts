// Every combination of what the directory can show and what can be wanted, checked against the rules that hold
// whatever happens; and the ordinary course of a migration, step by step.

import { describe, expect, it } from 'vitest';
import {
  decideSwap,
  type Entry,
  type Listing,
  type Role,
  type SwapAction,
  type SwapState,
} from './swap-decision.ts';

const OWN_UID = 107;
const socket = (inode: string, ownerUid = OWN_UID): Entry => ({ inode, ownerUid, isSocket: true });
const NOTHING: Listing = { stream: undefined, rpc: undefined, original: undefined, mark: undefined };
const RPC = socket('rpc');

function state(armedRole: Role | undefined, listenerInode?: string, isClosed = false): SwapState {
  return { ownUid: OWN_UID, armedRole, listenerInode, isClosed };
}

interface World {
  listing: Listing;
  state: SwapState;
}

/** What carrying out an action does to the directory; a take puts the listener `fresh` in place. */
function apply(world: World, action: SwapAction): World {
  const { listing, state: before } = world;
  switch (action.kind) {
    case 'put-back':
      if (listing.original === undefined) throw new Error('put back without an original');
      return { listing: { ...listing, stream: listing.original, original: undefined }, state: before };
    case 'drop-listener':
      return { listing, state: { ...before, listenerInode: undefined } };
    case 'remove':
      return { listing: { ...listing, [action.what]: undefined }, state: before };
    case 'take':
      if (listing.stream?.inode !== action.inode) throw new Error('took what is not there');
      if (listing.original !== undefined || listing.mark !== undefined) throw new Error('names are in use');
      return {
        listing: { ...listing, stream: socket('fresh'), original: listing.stream, mark: socket('fresh') },
        state: { ...before, listenerInode: 'fresh' },
      };
  }
}

const STREAMS: (Entry | undefined)[] = [
  undefined,
  socket('live'),
  socket('dead'),
  socket('theirs'),
  socket('theirs', 0),
  { inode: 'file', ownerUid: OWN_UID, isSocket: false },
];
const ORIGINALS = [undefined, socket('theirs'), socket('older')];
const MARKS = [undefined, socket('live'), socket('dead')];
const ROLES: (Role | undefined)[] = [undefined, 'source', 'target'];

const worlds: World[] = [];
for (const stream of STREAMS) {
  for (const original of ORIGINALS) {
    for (const mark of MARKS) {
      for (const rpc of [undefined, RPC]) {
        for (const role of ROLES) {
          for (const listener of [undefined, 'live']) {
            // Our live listener cannot be at the path without this process knowing it.
            if (stream?.inode === 'live' && listener === undefined) continue;
            const listing = { stream, original, mark, rpc };
            worlds.push({ listing, state: state(role, listener) });
            if (role === undefined) worlds.push({ listing, state: state(role, listener, true) });
          }
        }
      }
    }
  }
}

const isOurs = (world: World) => {
  const { stream, mark } = world.listing;
  return stream !== undefined && (stream.inode === world.state.listenerInode || stream.inode === mark?.inode);
};

describe('decideSwap in every situation', () => {
  it('covers them all', () => {
    expect(worlds.length).toBeGreaterThan(500);
  });

  it.each(worlds.map((world) => ({ world, name: JSON.stringify(world) })))('$name', ({ world }) => {
    const decision = decideSwap(world.listing, world.state);
    let after = world;
    for (const action of decision.actions) {
      // A path that was somebody else's when we looked is never renamed over nor removed, except by a take.
      if (action.kind === 'put-back' || (action.kind === 'remove' && action.what === 'stream')) {
        expect(isOurs(world)).toBe(true);
      }
      if (action.kind === 'take') {
        expect(world.state.armedRole).toBeDefined();
        expect(after.listing.stream).toMatchObject({ ownerUid: OWN_UID, isSocket: true });
        if (world.state.armedRole === 'source') expect(world.listing.rpc).toBeDefined();
        if (world.state.armedRole === 'target') expect(world.listing.rpc).toBeUndefined();
      }
      after = apply(after, action);
    }

    // Who listened before can be reached still: at the path, or behind our live listener there. Closed, nobody behind it can.
    const listening = isOurs(world) ? world.listing.original : world.listing.stream;
    const isToBeShut = world.state.isClosed && world.listing.stream?.inode === world.state.listenerInode;
    if (isToBeShut) {
      expect(after.listing.stream).toBeUndefined();
    } else if (listening !== undefined) {
      const isDirect = after.listing.stream?.inode === listening.inode;
      const isBehindUs =
        after.listing.stream?.inode === after.state.listenerInode &&
        after.listing.original?.inode === listening.inode;
      expect(isDirect || isBehindUs).toBe(true);
    }
    // The RPC socket is looked at only.
    expect(after.listing.rpc).toBe(world.listing.rpc);
    // Nothing of ours stays when nothing is wanted.
    if (world.state.armedRole === undefined) {
      expect(after.listing.original).toBeUndefined();
      expect(after.listing.mark).toBeUndefined();
      expect(after.state.listenerInode).toBeUndefined();
      expect(decision.standing).toBe('idle');
    }
    // It is done: looking again finds nothing to do.
    expect(decideSwap(after.listing, after.state).actions).toEqual([]);
  });
});

describe('decideSwap through a migration', () => {
  it('waits for the socket, then for its owner, then takes its place', () => {
    expect(decideSwap({ ...NOTHING, rpc: RPC }, state('source'))).toEqual({
      actions: [],
      standing: 'waiting-for-socket',
    });
    expect(decideSwap({ ...NOTHING, rpc: RPC, stream: socket('theirs', 0) }, state('source'))).toEqual({
      actions: [],
      standing: 'waiting-for-owner',
    });
    expect(decideSwap({ ...NOTHING, rpc: RPC, stream: socket('theirs') }, state('source'))).toEqual({
      actions: [{ kind: 'take', inode: 'theirs' }],
      standing: 'taking',
    });
  });

  it('does nothing without an announcement', () => {
    expect(decideSwap({ ...NOTHING, rpc: RPC, stream: socket('theirs') }, state(undefined))).toEqual({
      actions: [],
      standing: 'idle',
    });
  });

  it('holds the place', () => {
    const listing = { stream: socket('live'), original: socket('theirs'), mark: socket('live'), rpc: RPC };
    expect(decideSwap(listing, state('source', 'live'))).toEqual({ actions: [], standing: 'taken' });
  });

  it('cleans up after virt-handler removed the path', () => {
    const listing = { stream: undefined, original: socket('theirs'), mark: socket('live'), rpc: undefined };
    expect(decideSwap(listing, state('source', 'live'))).toEqual({
      actions: [
        { kind: 'drop-listener', why: 'removed' },
        { kind: 'remove', what: 'original' },
        { kind: 'remove', what: 'mark' },
      ],
      standing: 'waiting-for-socket',
    });
  });

  it('takes the place again after virt-handler made the socket anew', () => {
    const listing = { stream: socket('anew'), original: socket('theirs'), mark: socket('live'), rpc: RPC };
    expect(decideSwap(listing, state('source', 'live')).actions).toEqual([
      { kind: 'drop-listener', why: 'recreated' },
      { kind: 'remove', what: 'original' },
      { kind: 'remove', what: 'mark' },
      { kind: 'take', inode: 'anew' },
    ]);
  });

  it('puts the original back when decided against', () => {
    const listing = { stream: socket('live'), original: socket('theirs'), mark: socket('live'), rpc: RPC };
    expect(decideSwap(listing, state(undefined, 'live')).actions).toEqual([
      { kind: 'put-back' },
      { kind: 'drop-listener', why: 'put-back' },
      { kind: 'remove', what: 'mark' },
    ]);
  });

  it('leaves nobody to reach when the migration failed behind us', () => {
    const listing = { stream: socket('live'), original: socket('theirs'), mark: socket('live'), rpc: RPC };
    expect(decideSwap(listing, state(undefined, 'live', true)).actions).toEqual([
      { kind: 'remove', what: 'stream' },
      { kind: 'drop-listener', why: 'closed' },
      { kind: 'remove', what: 'original' },
      { kind: 'remove', what: 'mark' },
    ]);
  });

  it('puts back what a crashed predecessor had taken, and takes it when announced', () => {
    const listing = { stream: socket('dead'), original: socket('theirs'), mark: socket('dead'), rpc: RPC };
    const putBack = [{ kind: 'put-back' }, { kind: 'remove', what: 'mark' }];
    expect(decideSwap(listing, state(undefined)).actions).toEqual(putBack);
    expect(decideSwap(listing, state('source')).actions).toEqual([
      ...putBack,
      { kind: 'take', inode: 'theirs' },
    ]);
  });

  it('refuses a target role where the RPC socket says source, and waits the other way round', () => {
    const listing = { ...NOTHING, stream: socket('theirs') };
    expect(decideSwap({ ...listing, rpc: RPC }, state('target')).standing).toBe('role-mismatch');
    expect(decideSwap(listing, state('source')).standing).toBe('waiting-for-role');
  });
});
