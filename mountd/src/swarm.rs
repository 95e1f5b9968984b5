//! Which of several nodes is asked for a part of a large blob, and how they were found to do.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;
use twinshare::types::{Digest, NodeId};

/// Blobs whose other readers are remembered.
const BLOBS: usize = 256;

/// Nodes whose ways are remembered.
const NODES: usize = 512;

/// What an owner said of who reads a blob holds for so long.
const FRESH: Duration = Duration::from_secs(5);

/// A node that takes so many times as long is slower than another.
const SLOWER: u32 = 4;

/// The share that the latest measurement has in a mean.
const WEIGHT: f64 = 0.2;

/// Who reads what together with this node, and how quick the others are.
#[derive(Debug)]
pub(crate) struct Swarm {
    own: NodeId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    readers: LruCache<Digest, (Instant, Vec<NodeId>)>,
    /// When others were last named.
    latest: Option<Instant>,
    nodes: LruCache<NodeId, Conduct>,
}

/// How a node was found to answer.
#[derive(Debug, Clone, Copy, Default)]
struct Conduct {
    /// The mean time between a request, or a piece, and the next piece; none before the first.
    pace: Option<Duration>,
    /// Until then it's only asked when nobody else is left.
    shunned: Option<Instant>,
}

impl Swarm {
    pub(crate) fn new(own: NodeId) -> Self {
        let room = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        let state =
            State { readers: LruCache::new(room(BLOBS)), latest: None, nodes: LruCache::new(room(NODES)) };
        Self { own, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes who else reads a blob, as its owner says.
    pub(crate) fn note_readers(&self, blob: Digest, others: &[NodeId], now: Instant) {
        let mut state = self.state();
        if others.is_empty() {
            state.readers.pop(&blob);
        } else {
            let others = others.iter().copied().filter(|node| *node != self.own).collect();
            state.latest = Some(now);
            state.readers.put(blob, (now, others));
        }
    }

    /// Who else reads the blob at present and isn't shunned.
    pub(crate) fn readers(&self, blob: &Digest, now: Instant) -> Vec<NodeId> {
        let mut state = self.state();
        let others = match state.readers.get(blob) {
            Some((at, others)) if now.duration_since(*at) < FRESH => others.clone(),
            _ => return Vec::new(),
        };
        others.into_iter().filter(|node| !state.is_shunned(node, now)).collect()
    }

    /// Whether something is being read that others read too.
    pub(crate) fn is_used(&self, now: Instant) -> bool {
        self.state().latest.is_some_and(|at| now.duration_since(at) < FRESH)
    }

    /// Notes that a piece came from a node after this time.
    pub(crate) fn note_pace(&self, node: NodeId, pace: Duration) {
        let mut state = self.state();
        let conduct = state.nodes.get_or_insert_mut(node, Conduct::default);
        let mean = conduct.pace.map_or(pace, |mean| mean.mul_f64(1.0 - WEIGHT) + pace.mul_f64(WEIGHT));
        conduct.pace = Some(mean);
    }

    /// Asks a node for nothing for a while, if there are others.
    pub(crate) fn shun(&self, node: NodeId, until: Instant) {
        let mut state = self.state();
        let conduct = state.nodes.get_or_insert_mut(node, Conduct::default);
        conduct.shunned = conduct.shunned.max(Some(until));
    }

    /// How long a node takes to its next piece, mostly.
    pub(crate) fn pace(&self, node: &NodeId) -> Option<Duration> {
        self.state().nodes.peek(node)?.pace
    }

    /// Whether a node was found to be much slower than another, to which it's one step further. That spares the owner:
    /// where all are busy and nobody is known, each would have it send everything that somebody waits for.
    pub(crate) fn is_slower(&self, node: &NodeId, other: &NodeId) -> bool {
        match (self.pace(node), self.pace(other)) {
            (Some(pace), Some(others)) => pace > others * SLOWER,
            _ => false,
        }
    }

    /// Sorts nodes, the quickest first: those that nothing is known of after those, and last those that are shunned.
    pub(crate) fn sort(&self, nodes: &mut [NodeId], now: Instant) {
        let state = self.state();
        nodes.sort_by_cached_key(|node| {
            let pace = state.nodes.peek(node).and_then(|conduct| conduct.pace);
            (state.is_shunned(node, now), pace.unwrap_or(Duration::MAX), *node)
        });
    }

    /// Whose of the `others` and this node it is to get this slice from the owner; none if it's this node's.
    ///
    /// The greatest hash decides. So all who know of the same readers agree without a word; who knows of more finds one
    /// with a greater hash or the same, so that no two can wait for each other; and when one comes or goes, only its own
    /// slices change hands.
    pub(crate) fn responsible(&self, others: &[NodeId], blob: &Digest, first_group: u64) -> Option<NodeId> {
        let score = |node: &NodeId| {
            let parts = [&node.as_bytes()[..], &blob.as_bytes()[..], &first_group.to_be_bytes()[..]];
            Digest::of(&parts.concat())
        };
        let own = score(&self.own);
        others
            .iter()
            .map(|node| (score(node), *node))
            .filter(|(score, _)| *score > own)
            .max()
            .map(|(_, node)| node)
    }
}

impl State {
    fn is_shunned(&self, node: &NodeId, now: Instant) -> bool {
        self.nodes.peek(node).and_then(|conduct| conduct.shunned).is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const BLOB: Digest = Digest::from_bytes([7; 32]);

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    /// Who is responsible for a slice in the eyes of node `n`, when these are the readers.
    fn seen_by(n: u8, readers: &[u8], slice: u64) -> NodeId {
        let others: Vec<NodeId> = readers.iter().filter(|other| **other != n).map(|n| node(*n)).collect();
        Swarm::new(node(n)).responsible(&others, &BLOB, slice * 16).unwrap_or(node(n))
    }

    #[test]
    fn all_agree_and_share_evenly() {
        let readers: Vec<u8> = (1..9).collect();
        let mut shares: HashMap<NodeId, u32> = HashMap::new();
        for slice in 0..512 {
            let chosen = seen_by(1, &readers, slice);
            assert!(readers.iter().all(|n| seen_by(*n, &readers, slice) == chosen));
            *shares.entry(chosen).or_default() += 1;
        }
        assert!(shares.len() == 8 && shares.values().all(|share| (32..128).contains(share)), "{shares:?}");
    }

    #[test]
    fn nobody_waits_in_a_circle_when_readers_are_not_known_to_all() {
        // Each knows of others, itself always among them.
        let known: [&[u8]; 5] = [&[0, 1, 2], &[1, 0, 4], &[2, 3], &[3, 0, 1, 2, 4], &[4, 1]];
        for slice in 0..512 {
            for start in 0..5 {
                let mut at = start;
                let steps = (0..5).take_while(|_| {
                    let next = seen_by(at, known[usize::from(at)], slice).as_bytes()[0];
                    let moved = next != at;
                    at = next;
                    moved
                });
                assert!(steps.count() < 5, "slice {slice} from {start}");
            }
        }
    }

    #[test]
    fn what_is_known_of_nodes_decides_and_fades() {
        let (swarm, now) = (Swarm::new(node(9)), Instant::now());
        swarm.note_readers(BLOB, &[node(1), node(2), node(9)], now);
        assert_eq!(swarm.readers(&BLOB, now), [node(1), node(2)], "not itself");
        assert_eq!(swarm.readers(&BLOB, now + FRESH), []);
        assert!(swarm.is_used(now) && !swarm.is_used(now + FRESH));
        swarm.shun(node(1), now + Duration::from_secs(1));
        assert_eq!(swarm.readers(&BLOB, now), [node(2)]);
        assert_eq!(swarm.readers(&BLOB, now + Duration::from_secs(1)), [node(1), node(2)]);

        for (n, pace) in [(1, 5), (2, 50), (4, 10)] {
            swarm.note_pace(node(n), Duration::from_millis(pace));
        }
        assert!(swarm.is_slower(&node(2), &node(1)) && !swarm.is_slower(&node(4), &node(1)));
        assert!(!swarm.is_slower(&node(3), &node(1)), "nothing is known of it");
        let mut nodes = [1, 2, 3, 4].map(node);
        swarm.sort(&mut nodes, now);
        assert_eq!(nodes, [4, 2, 3, 1].map(node));
        swarm.note_readers(BLOB, &[], now);
        assert_eq!(swarm.readers(&BLOB, now), []);
    }
}
