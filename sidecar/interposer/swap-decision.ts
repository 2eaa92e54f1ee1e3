// Decides what to do about one migration's socket, from what the directory shows and what is wanted.
// Pure: no I/O, no clock. Guarantees: without an announcement nothing but the interposer's own leavings is named
// in an action; a socket that is not owned by us yet is waited for; the original is never removed while our own
// socket holds its place, unless it is to be reached no more. Order of events and owners: kubevirt.md, 3 and 6.

/** A directory entry as lstat shows it. `inode` is unique while a link or an open listener keeps it alive. */
export interface Entry {
  readonly inode: string;
  readonly ownerUid: number;
  readonly isSocket: boolean;
}

/** What the directory shows for one migration. */
export interface Listing {
  /** The entry at the stream socket's own name. */
  readonly stream: Entry | undefined;
  /** libvirt's RPC socket: made on a source only. */
  readonly rpc: Entry | undefined;
  readonly original: Entry | undefined;
  readonly mark: Entry | undefined;
}

export type Role = 'source' | 'target';

/** What is wanted, and what this process holds. */
export interface SwapState {
  readonly ownUid: number;
  /** The announced role; undefined when nothing is announced, or no longer wanted: then things are put back. */
  readonly armedRole: Role | undefined;
  /** Inode of the listener that this process has put in the original's place and still holds. */
  readonly listenerInode: string | undefined;
  /**
   * The migration failed after connections had gone through us: who comes late must not reach the original, where a lone
   * connection would be waited on for ever (virt-handler's proxy does not pass on that its other end has closed).
   */
  readonly isClosed?: boolean;
}

/**
 * - `put-back`: rename the original over the stream socket; what is there is ours.
 * - `drop-listener`: nobody can reach it any more; accepted connections go on.
 * - `remove`: unlink one of our own leavings. `stream` only when it is proven ours, and no original is left or wanted.
 * - `take`: put a listener of ours in the place of the socket `inode`.
 */
export type SwapAction =
  | { readonly kind: 'put-back' }
  | {
      readonly kind: 'drop-listener';
      readonly why: 'removed' | 'recreated' | 'put-back' | 'orphaned' | 'closed';
    }
  | { readonly kind: 'remove'; readonly what: 'original' | 'mark' | 'stream' }
  | { readonly kind: 'take'; readonly inode: string };

/** Why nothing is taken although it is armed, or that all is as it should be. */
export type SwapStanding =
  | 'idle'
  | 'taken'
  | 'taking'
  | 'waiting-for-socket'
  | 'waiting-for-owner'
  | 'waiting-for-role'
  | 'role-mismatch'
  | 'not-a-socket';

export interface SwapDecision {
  /** To be done in this order. */
  readonly actions: readonly SwapAction[];
  /** How things stand once the actions are done. */
  readonly standing: SwapStanding;
}

const REMOVE_ORIGINAL: SwapAction = { kind: 'remove', what: 'original' };
const REMOVE_MARK: SwapAction = { kind: 'remove', what: 'mark' };
const REMOVE_STREAM: SwapAction = { kind: 'remove', what: 'stream' };
const PUT_BACK: SwapAction = { kind: 'put-back' };

/** Decides for one migration. Applying the actions and deciding again gives no further action but `take`'s result. */
export function decideSwap(listing: Listing, state: SwapState): SwapDecision {
  const { stream } = listing;
  const isLive = stream !== undefined && stream.inode === state.listenerInode;
  const isPredecessors = stream !== undefined && !isLive && stream.inode === listing.mark?.inode;
  if (isLive) return decideOwn(listing, state);
  if (isPredecessors) return decidePredecessors(listing, state);
  return decideForeign(listing, state);
}

/** Our own live listener is in the original's place. */
function decideOwn(listing: Listing, state: SwapState): SwapDecision {
  if (listing.original === undefined) {
    // Somebody removed the original: nothing can be reached through us, and nobody may believe otherwise.
    return {
      actions: [{ kind: 'drop-listener', why: 'orphaned' }, REMOVE_STREAM, ...leavings(listing)],
      standing: standingWithout(state),
    };
  }
  if (state.armedRole !== undefined) return { actions: [], standing: 'taken' };
  if (state.isClosed === true) {
    return {
      actions: [REMOVE_STREAM, { kind: 'drop-listener', why: 'closed' }, ...leavings(listing)],
      standing: 'idle',
    };
  }
  const actions: SwapAction[] = [PUT_BACK, { kind: 'drop-listener', why: 'put-back' }];
  if (listing.mark !== undefined) actions.push(REMOVE_MARK);
  return { actions, standing: 'idle' };
}

/** The mark proves that a listener of a crashed predecessor is in the original's place: it answers nobody. */
function decidePredecessors(listing: Listing, state: SwapState): SwapDecision {
  const actions: SwapAction[] = [];
  if (state.listenerInode !== undefined) actions.push({ kind: 'drop-listener', why: 'recreated' });
  if (listing.original === undefined) {
    actions.push(REMOVE_STREAM, ...leavings(listing));
    return { actions, standing: standingWithout(state) };
  }
  actions.push(PUT_BACK, REMOVE_MARK);
  return afterwards(actions, listing.original, listing, state);
}

/** The stream socket is absent, or it is virt-handler's or QEMU's own. */
function decideForeign(listing: Listing, state: SwapState): SwapDecision {
  const actions: SwapAction[] = [];
  if (state.listenerInode !== undefined) {
    actions.push({ kind: 'drop-listener', why: listing.stream === undefined ? 'removed' : 'recreated' });
  }
  actions.push(...leavings(listing));
  return afterwards(actions, listing.stream, listing, state);
}

/** Decides about taking the place of `stream`, once `actions` have been done. */
function afterwards(
  actions: SwapAction[],
  stream: Entry | undefined,
  listing: Listing,
  state: SwapState,
): SwapDecision {
  const { armedRole, ownUid } = state;
  if (armedRole === undefined) return { actions, standing: 'idle' };
  // The RPC socket appears on a source alone, before libvirt is asked to migrate. It is the one local sign of
  // the role, and a mistake here would put two sources or two targets on one stream.
  if (armedRole === 'target' && listing.rpc !== undefined) return { actions, standing: 'role-mismatch' };
  if (stream === undefined) return { actions, standing: 'waiting-for-socket' };
  if (!stream.isSocket) return { actions, standing: 'not-a-socket' };
  if (armedRole === 'source' && listing.rpc === undefined) return { actions, standing: 'waiting-for-role' };
  // virt-handler listens as root and gives the socket to qemu a moment later; a hard link to it is EPERM till then.
  if (stream.ownerUid !== ownUid) return { actions, standing: 'waiting-for-owner' };
  actions.push({ kind: 'take', inode: stream.inode });
  return { actions, standing: 'taking' };
}

function leavings(listing: Listing): SwapAction[] {
  const actions: SwapAction[] = [];
  if (listing.original !== undefined) actions.push(REMOVE_ORIGINAL);
  if (listing.mark !== undefined) actions.push(REMOVE_MARK);
  return actions;
}

function standingWithout(state: SwapState): SwapStanding {
  return state.armedRole === undefined ? 'idle' : 'waiting-for-socket';
}
