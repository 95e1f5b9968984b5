//! Turns for bulk: what is fetched whole, ahead of need.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::connection::Holder;

/// Bulk answers under way at a time, unless told otherwise.
pub const BULK_SLOTS: usize = 4;

/// A turn that takes longer doesn't keep others from theirs: whoever takes their answer slowly must not hold up everybody.
const LONG: Duration = Duration::from_secs(10);

/// Whoever waits is told about it so often.
const TOLD: Duration = Duration::from_secs(1);

/// A queue of answers to bulk requests, with a set number under way at a time.
///
/// It's fair between peers: next is who has the fewest turns, and of those who has waited longest since their last one.
#[derive(Debug, Clone)]
pub struct BulkQueue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    slots: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: Vec<(u64, Holder, Instant)>,
    /// In the order of arrival.
    waiting: Vec<Waiting>,
    /// When each of those who have anything here had their last turn, by number.
    served: HashMap<Holder, u64>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    holder: Holder,
    turn: oneshot::Sender<Turn>,
}

/// The right to send, until it's dropped.
#[derive(Debug)]
pub(super) struct Turn {
    queue: BulkQueue,
    number: u64,
}

/// Somebody who sends, or waits to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queued {
    /// Who: none is a client without a node.
    pub node: Option<crate::types::NodeId>,
    /// From where, if it's none.
    pub address: Option<std::net::IpAddr>,
    /// How many are to be served before; none while it's being served.
    pub position: Option<u32>,
}

impl BulkQueue {
    /// With so many answers under way at a time, at least one.
    pub fn new(slots: usize) -> Self {
        Self(Arc::new(Inner { slots: slots.max(1), state: Mutex::default() }))
    }

    /// Who sends and who waits, in the order of their turns.
    pub fn list(&self) -> Vec<Queued> {
        let state = self.state();
        let shown = |holder: Holder, position| {
            let (node, address) = match holder {
                Holder::Node(node) => (Some(node), None),
                Holder::Anonymous(address) | Holder::Handshake(address) => (None, Some(address)),
            };
            Queued { node, address, position }
        };
        let running = state.running.iter().map(|(_, holder, _)| shown(*holder, None));
        let waiting = state.order().into_iter().zip(0..);
        running.chain(waiting.map(|(at, place)| shown(state.waiting[at].holder, Some(place)))).collect()
    }

    /// How many have a turn.
    pub(super) fn under_way(&self) -> usize {
        self.state().running.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn, and tells every second how many come before. None when `tell` fails.
    pub(super) async fn turn<F: Future<Output = bool>>(
        &self,
        holder: Holder,
        mut tell: impl FnMut(u32) -> F,
    ) -> Option<Turn> {
        let (number, turn) = {
            let mut state = self.state();
            state.next += 1;
            let (number, (turn, waiting)) = (state.next, oneshot::channel());
            state.waiting.push(Waiting { number, holder, turn });
            (number, waiting)
        };
        let _place = Place { queue: self, number };
        let mut turn = pin!(turn);
        loop {
            self.advance();
            tokio::select! {
                biased;
                turn = &mut turn => return turn.ok(),
                () = tokio::time::sleep(TOLD) => {}
            }
            let position = {
                let state = self.state();
                state.order().into_iter().position(|at| state.waiting[at].number == number)
            };
            if let Some(position) = position
                && !tell(u32::try_from(position).unwrap_or(u32::MAX)).await
            {
                return None;
            }
        }
    }

    /// Gives turns to the next ones while there are free slots.
    fn advance(&self) {
        loop {
            let mut state = self.state();
            let busy = state.running.iter().filter(|(_, _, since)| since.elapsed() < LONG).count();
            let Some(first) = state.order().first().copied().filter(|_| busy < self.0.slots) else { return };
            let Waiting { number, holder, turn } = state.waiting.remove(first);
            state.running.push((number, holder, Instant::now()));
            let served = state.next;
            state.next += 1;
            state.served.insert(holder, served);
            drop(state);
            // Whoever has gone gives it back at once.
            let _ = turn.send(Turn { queue: self.clone(), number });
        }
    }

    fn leave(&self, number: u64) {
        let mut state = self.state();
        state.running.retain(|(other, ..)| *other != number);
        state.waiting.retain(|waiting| waiting.number != number);
        if state.waiting.is_empty() && state.running.is_empty() {
            state.served.clear();
        }
        drop(state);
        self.advance();
    }
}

impl State {
    /// The places in `waiting`, in the order of their turns: as if each turn were given at once.
    fn order(&self) -> Vec<usize> {
        let mut before: HashMap<Holder, usize> = HashMap::new();
        for (_, holder, _) in &self.running {
            *before.entry(*holder).or_default() += 1;
        }
        let mut keyed: Vec<_> = self
            .waiting
            .iter()
            .enumerate()
            .map(|(at, waiting)| {
                let turns = before.entry(waiting.holder).or_default();
                *turns += 1;
                (*turns, self.served.get(&waiting.holder).copied().unwrap_or(0), waiting.number, at)
            })
            .collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(.., at)| at).collect()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.leave(self.number);
    }
}

/// A place in the queue, until its turn has come or nobody waits for it any more.
struct Place<'a> {
    queue: &'a BulkQueue,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.state().waiting.retain(|waiting| waiting.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::types::NodeId;

    fn node(n: u8) -> Holder {
        Holder::Node(NodeId::from_bytes([n; 32]))
    }

    #[tokio::test(start_paused = true)]
    async fn turns_go_round() {
        let queue = BulkQueue::new(2);
        let always = |_| std::future::ready(true);
        let first = queue.turn(node(1), always).await.unwrap();
        let second = queue.turn(node(1), always).await.unwrap();
        let third = queue.turn(node(1), always);
        let fourth = queue.turn(node(1), always);
        let other = queue.turn(node(2), always);
        let (mut third, mut fourth, mut other) = (pin!(third), pin!(fourth), pin!(other));
        for waiting in [third.as_mut(), fourth.as_mut(), other.as_mut()] {
            assert!(waiting.now_or_never().is_none());
        }
        let shown: Vec<_> =
            queue.list().iter().map(|one| (one.node.unwrap().as_bytes()[0], one.position)).collect();
        assert_eq!(shown, [(1, None), (1, None), (2, Some(0)), (1, Some(1)), (1, Some(2))]);
        drop(first);
        let other = other.await.unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        let third = third.await.unwrap();
        drop((other, third));
        fourth.await.unwrap();
        assert!(queue.list().is_empty() && queue.state().served.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_slow_or_gone_holds_nobody_up() {
        let queue = BulkQueue::new(1);
        let always = |_| std::future::ready(true);
        let slow = queue.turn(node(1), always).await.unwrap();
        let told = Mutex::new(Vec::new());
        let mut gone = Box::pin(queue.turn(node(2), always));
        assert!(gone.as_mut().now_or_never().is_none());
        let turn = queue.turn(node(3), |position| {
            told.lock().unwrap().push(position);
            std::future::ready(true)
        });
        let mut turn = pin!(turn);
        assert!(turn.as_mut().now_or_never().is_none());
        drop(gone);
        let turn = turn.await.unwrap();
        let told = told.lock().unwrap().clone();
        assert!(told.iter().all(|position| *position == 0) && told.len() >= 9, "{told:?}");
        assert_eq!(queue.list().len(), 2, "the slow one goes on");
        drop((slow, turn));
        // Whoever can't be told has gone.
        let _held = queue.turn(node(1), always).await.unwrap();
        assert!(queue.turn(node(2), |_| std::future::ready(false)).await.is_none());
        assert_eq!(queue.list().len(), 1);
    }
}
