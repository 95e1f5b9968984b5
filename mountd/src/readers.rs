//! Who lately read what of the workspaces that are shared here.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;
use twinshare::{
    peer::{MAX_HOLDERS, PieceRequest},
    types::{Digest, NodeId, WorkspaceId},
};

/// Large blobs whose readers are remembered.
const BLOBS: usize = 1024;

/// Whoever asked for nothing of a blob for so long doesn't read it any more.
const READING: Duration = Duration::from_secs(5);

/// Whoever was sent parts of a workspace is named for so long; most of it will be in the cache still.
const HOLDING: Duration = Duration::from_secs(3600);

/// Nodes that were given a capability and are remembered: of all of them the others learn when they may read no more.
const REMEMBERED: usize = 1024;

/// When which node asked last.
type Asked = BTreeMap<NodeId, Instant>;

/// Who asked for what, and when.
#[derive(Debug)]
pub(crate) struct Readers {
    workspaces: HashMap<WorkspaceId, Asked>,
    blobs: LruCache<(WorkspaceId, Digest), Asked>,
    /// Who was given a capability.
    given: HashMap<WorkspaceId, Asked>,
}

impl Readers {
    pub(crate) fn new() -> Self {
        let blobs = NonZeroUsize::new(BLOBS).unwrap_or(NonZeroUsize::MIN);
        Self { workspaces: HashMap::new(), blobs: LruCache::new(blobs), given: HashMap::new() }
    }

    /// Notes that `reader` asks for these pieces of the workspace; gives who else reads the first large blob of them.
    pub(crate) fn note(
        &mut self,
        workspace: WorkspaceId,
        reader: NodeId,
        pieces: &[PieceRequest],
        now: Instant,
    ) -> Vec<NodeId> {
        note(self.workspaces.entry(workspace).or_default(), reader, HOLDING, MAX_HOLDERS, now);
        let slices = pieces.iter().filter_map(|piece| match piece {
            PieceRequest::Slice { slice, .. } => Some(*slice),
            _ => None,
        });
        let mut before = None;
        let mut others = None;
        for digest in slices {
            // Slices of one blob come in a row, mostly.
            if before.replace(digest) == Some(digest) {
                continue;
            }
            let asked = self.blobs.get_or_insert_mut((workspace, digest), Asked::new);
            note(asked, reader, READING, MAX_HOLDERS, now);
            others.get_or_insert_with(|| asked.keys().copied().filter(|node| *node != reader).collect());
        }
        others.unwrap_or_default()
    }

    /// Notes that `reader` is given a capability for the workspace.
    pub(crate) fn give(&mut self, workspace: WorkspaceId, reader: NodeId, valid: Duration, now: Instant) {
        note(self.given.entry(workspace).or_default(), reader, valid, REMEMBERED, now);
    }

    /// Who was given one not longer ago than it is valid, the latest first.
    pub(crate) fn given(&self, workspace: &WorkspaceId, valid: Duration, now: Instant) -> Vec<NodeId> {
        latest(self.given.get(workspace), valid, now)
    }

    /// Who was sent parts of the workspace within the last hour, the latest first.
    pub(crate) fn holders(&self, workspace: &WorkspaceId, now: Instant) -> Vec<NodeId> {
        latest(self.workspaces.get(workspace), HOLDING, now)
    }
}

/// Who asked within this time, the latest first.
fn latest(asked: Option<&Asked>, long: Duration, now: Instant) -> Vec<NodeId> {
    let asked = asked.into_iter().flatten();
    let mut latest: Vec<_> = asked.filter(|(_, at)| now.duration_since(**at) < long).collect();
    latest.sort_by_key(|(node, at)| (Reverse(**at), **node));
    latest.into_iter().map(|(node, _)| *node).collect()
}

/// Notes who asks, and forgets who hasn't for `long`; the one that hasn't for longest makes way for more.
fn note(asked: &mut Asked, reader: NodeId, long: Duration, most: usize, now: Instant) {
    asked.retain(|_, at| now.duration_since(*at) < long);
    asked.insert(reader, now);
    if asked.len() > most
        && let Some(oldest) = asked.iter().min_by_key(|(_, at)| **at).map(|(node, _)| *node)
    {
        asked.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: WorkspaceId = WorkspaceId::from_bytes([1; 16]);

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn slice(n: u8) -> PieceRequest {
        PieceRequest::Slice { slice: Digest::from_bytes([n; 32]), size: 1 << 20, groups: [0, 16] }
    }

    #[test]
    fn readers_of_one_blob_learn_of_each_other() {
        let (mut readers, now) = (Readers::new(), Instant::now());
        assert_eq!(readers.note(LAB, node(1), &[slice(1)], now), []);
        assert_eq!(readers.note(LAB, node(2), &[slice(2)], now), []);
        assert_eq!(readers.note(LAB, node(3), &[slice(1), slice(1), slice(2)], now), [node(1)]);
        assert_eq!(readers.note(LAB, node(1), &[slice(2)], now), [node(2), node(3)]);
        // In another workspace it's another's business.
        assert_eq!(readers.note(WorkspaceId::from_bytes([2; 16]), node(4), &[slice(1)], now), []);
        // Who has stopped isn't named as a reader, but still as a holder.
        assert_eq!(readers.note(LAB, node(5), &[slice(2)], now + READING), []);
        assert_eq!(readers.holders(&LAB, now + READING), [5, 1, 2, 3].map(node));
        assert_eq!(readers.holders(&LAB, now + HOLDING), [node(5)]);
    }

    #[test]
    fn a_crowd_is_not_remembered() {
        let (mut readers, now) = (Readers::new(), Instant::now());
        let crowd = |n: usize| NodeId::from_bytes(std::array::from_fn(|at| (n >> (8 * (at % 8))) as u8));
        let last = 1000 + REMEMBERED + 9;
        for n in 1000..=last {
            let now = now + Duration::from_micros(n as u64);
            readers.note(LAB, crowd(n), &[slice(1)], now);
            readers.give(LAB, crowd(n), HOLDING, now);
        }
        let (holders, given) = (readers.holders(&LAB, now), readers.given(&LAB, HOLDING, now));
        assert_eq!((holders.len(), holders[0]), (MAX_HOLDERS, crowd(last)));
        assert_eq!((given.len(), given[0]), (REMEMBERED, crowd(last)));
        let others = readers.note(LAB, node(200), &[slice(1)], now + Duration::from_secs(1));
        assert_eq!(others.len(), MAX_HOLDERS - 1);
    }
}
