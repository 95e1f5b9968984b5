use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{
    holder::{Holder, HolderError, Holders, Piece, Refused, Want},
    source::SourceError,
};
use crate::{
    blob::{Blob, Groups},
    store::{StoreError, WriteStore},
    types::{Digest, WorkspaceId},
};

/// Requests that one workspace has under way at a time. Two keep the link busy while one answer is being unpacked; the
/// others let a demand overtake readahead.
const REQUESTS: usize = 4;

/// Bytes that one request asks for, about: a quarter of what fits on a gigabit link in 100 ms.
const REQUEST_BYTES: u64 = 3 << 20;

/// Pieces in one request.
const REQUEST_PIECES: usize = 1024;

/// Groups in one slice (1 MiB): a reader gets on with the first while the next is on its way.
const SLICE_GROUPS: u64 = 64;

/// How urgent a fetch is: demand goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Somebody waits.
    Demand,
    /// Somebody will probably ask.
    Readahead,
}

/// How a fetch ended; none while it's under way.
type Outcome = Option<Result<(), SourceError>>;

/// A want that is queued or under way.
struct Job {
    want: Want,
    outcome: watch::Sender<Outcome>,
}

/// What one workspace is fetching.
pub(super) struct Lane {
    workspace: WorkspaceId,
    store: Arc<dyn WriteStore>,
    holders: Arc<dyn Holders>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    demand: VecDeque<Arc<Job>>,
    readahead: VecDeque<Arc<Job>>,
    /// Trees and small blobs that are queued or under way.
    whole: HashMap<Digest, Arc<Job>>,
    /// Slices that are queued or under way.
    slices: HashMap<Digest, Vec<Arc<Job>>>,
    requests: usize,
}

impl Lane {
    pub(super) fn new(workspace: WorkspaceId, store: Arc<dyn WriteStore>, holders: Arc<dyn Holders>) -> Self {
        Self { workspace, store, holders, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a tree object or small blob unless that has been done, and gives what to wait for.
    pub(super) fn whole(
        self: &Arc<Self>,
        digest: Digest,
        want: Want,
        class: Class,
    ) -> Result<Ticket, StoreError> {
        let mut state = self.state();
        // It may have come between the caller's look and now.
        let held = match &want {
            Want::Blob(blob) => !self.store.held(blob)?.is_empty(),
            _ => self.store.tree(&digest)?.is_some(),
        };
        if held {
            return Ok(Ticket(Vec::new()));
        }
        let job = match state.whole.get(&digest).cloned() {
            Some(job) => {
                state.promote(&job, class);
                job
            }
            None => {
                let job = Job::new(want);
                state.whole.insert(digest, job.clone());
                state.queue(job.clone(), class);
                job
            }
        };
        let ticket = Ticket(vec![job.outcome.subscribe()]);
        self.start(&mut state);
        Ok(ticket)
    }

    /// Queues what is missing of `groups` unless that has been done, and gives what to wait for.
    pub(super) fn slice(
        self: &Arc<Self>,
        blob: Blob,
        groups: Range<u64>,
        class: Class,
    ) -> Result<Ticket, StoreError> {
        let mut state = self.state();
        let mut missing = Groups::from(groups) - self.store.held(&blob)?;
        let mut outcomes = Vec::new();
        for job in state.slices.get(&blob.digest).cloned().unwrap_or_default() {
            let Want::Slice { groups, .. } = &job.want else { continue };
            let range = Groups::from(groups.clone());
            if missing.intersects(&range) {
                missing -= range;
                state.promote(&job, class);
                outcomes.push(job.outcome.subscribe());
            }
        }
        for range in ranges(&missing) {
            let mut start = range.start;
            while start < range.end {
                let end = range.end.min(start + SLICE_GROUPS);
                let job = Job::new(Want::Slice { blob, groups: start..end });
                outcomes.push(job.outcome.subscribe());
                state.slices.entry(blob.digest).or_default().push(job.clone());
                state.queue(job, class);
                start = end;
            }
        }
        self.start(&mut state);
        Ok(Ticket(outcomes))
    }

    /// Bytes that are queued ahead of demand and not yet under way.
    pub(super) fn readahead_queued(&self) -> u64 {
        self.state().readahead.iter().map(|job| job.want.cost()).sum()
    }

    /// Starts another request if there is something to ask and room for it.
    fn start(self: &Arc<Self>, state: &mut State) {
        while state.requests < REQUESTS
            && let Some(batch) = state.next_batch()
        {
            state.requests += 1;
            tokio::spawn(self.clone().run(batch));
        }
    }

    /// Carries out batches until there's nothing left to ask.
    async fn run(self: Arc<Self>, mut batch: Vec<Arc<Job>>) {
        loop {
            self.request(&batch).await;
            let mut state = self.state();
            match state.next_batch() {
                Some(next) => batch = next,
                None => {
                    state.requests -= 1;
                    return;
                }
            }
        }
    }

    /// Asks one holder after the other until every job of the batch has an outcome.
    async fn request(&self, batch: &[Arc<Job>]) {
        let holders = self.holders.holders(&self.workspace);
        // Without anybody to ask, waiting would change nothing.
        let mut last = SourceError::TimedOut;
        for holder in holders {
            let open: Vec<&Arc<Job>> = batch.iter().filter(|job| job.is_open()).collect();
            if open.is_empty() {
                return;
            }
            if let Err(error) = self.ask(&*holder, &open).await {
                last = error;
            }
        }
        for job in batch.iter().filter(|job| job.is_open()) {
            self.finish(job, Err(last.clone()));
        }
    }

    async fn ask(&self, holder: &dyn Holder, jobs: &[&Arc<Job>]) -> Result<(), SourceError> {
        let wants: Vec<Want> = jobs.iter().map(|job| job.want.clone()).collect();
        let mut last = Ok(());
        let mut sink = |position: usize, piece: Result<Piece, Refused>| {
            let Some(job) = jobs.get(position) else { return };
            match piece {
                Ok(piece) => match self.keep(&piece) {
                    Ok(()) if job.want.is_met_by(&piece) => self.finish(job, Ok(())),
                    Ok(()) => {}
                    Err(error) => self.finish(job, Err(SourceError::Failed(error.to_string()))),
                },
                // Another holder may have it.
                Err(Refused::Unknown | Refused::Changed) => last = Err(SourceError::Changed),
                Err(Refused::Failed) => {
                    last = Err(SourceError::Failed("the owner can't read the file".into()))
                }
            }
        };
        let result = holder.fetch(&self.workspace, &wants, &mut sink).await;
        match result {
            Ok(()) => last,
            Err(HolderError::Denied) => Err(SourceError::Denied),
            Err(HolderError::Unreachable(why)) => {
                tracing::debug!(why, "a holder can't be reached");
                Err(SourceError::TimedOut)
            }
            Err(HolderError::Misbehaved(why)) => {
                tracing::warn!(why, "a holder misbehaves");
                Err(SourceError::Failed(why))
            }
        }
    }

    fn keep(&self, piece: &Piece) -> Result<(), StoreError> {
        match piece {
            Piece::Tree { digest, object } => self.store.put_tree(*digest, object),
            Piece::Blob(blob) => self.store.put_blob(blob),
            Piece::Slice(slice) => self.store.put_slice(slice),
            // Never queued here: the fetcher asks for it itself.
            Piece::Pending(_) => Ok(()),
        }
    }

    /// Ends a job: whoever comes from now on starts anew.
    fn finish(&self, job: &Arc<Job>, outcome: Result<(), SourceError>) {
        let mut state = self.state();
        match &job.want {
            Want::Tree(digest) | Want::Blob(Blob { digest, .. }) => {
                state.whole.remove(digest);
            }
            Want::Slice { blob, .. } => {
                if let Some(jobs) = state.slices.get_mut(&blob.digest) {
                    jobs.retain(|other| !Arc::ptr_eq(other, job));
                    if jobs.is_empty() {
                        state.slices.remove(&blob.digest);
                    }
                }
            }
            Want::Pending { .. } => {}
        }
        drop(state);
        job.outcome.send_replace(Some(outcome));
    }
}

impl State {
    fn queue(&mut self, job: Arc<Job>, class: Class) {
        match class {
            Class::Demand => self.demand.push_back(job),
            Class::Readahead => self.readahead.push_back(job),
        }
    }

    /// Moves a job that now somebody waits for ahead of what nobody waits for.
    fn promote(&mut self, job: &Arc<Job>, class: Class) {
        if class == Class::Demand
            && let Some(position) = self.readahead.iter().position(|queued| Arc::ptr_eq(queued, job))
            && let Some(job) = self.readahead.remove(position)
        {
            self.demand.push_back(job);
        }
    }

    /// What the next request asks for: all demand that fits, then readahead.
    fn next_batch(&mut self) -> Option<Vec<Arc<Job>>> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for queue in [&mut self.demand, &mut self.readahead] {
            while batch.len() < REQUEST_PIECES
                && let Some(job) = queue.front()
            {
                let cost = job.want.cost();
                if !batch.is_empty() && bytes + cost > REQUEST_BYTES {
                    break;
                }
                bytes += cost;
                batch.extend(queue.pop_front());
            }
        }
        (!batch.is_empty()).then_some(batch)
    }
}

impl Job {
    fn new(want: Want) -> Arc<Self> {
        Arc::new(Self { want, outcome: watch::Sender::new(None) })
    }

    fn is_open(&self) -> bool {
        self.outcome.borrow().is_none()
    }
}

impl Want {
    fn is_met_by(&self, piece: &Piece) -> bool {
        match (self, piece) {
            (Self::Tree(wanted), Piece::Tree { digest, .. }) => wanted == digest,
            (Self::Blob(wanted), Piece::Blob(blob)) => wanted.digest == blob.digest(),
            (Self::Slice { blob, groups }, Piece::Slice(slice)) => {
                *blob == slice.blob() && *groups == slice.groups()
            }
            _ => false,
        }
    }
}

/// Fetches to wait for.
pub(super) struct Ticket(Vec<watch::Receiver<Outcome>>);

impl Ticket {
    /// Returns when all are here, or with the first error.
    pub(super) async fn wait(self) -> Result<(), SourceError> {
        for mut outcome in self.0 {
            match outcome.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or(Ok(()))?,
                Err(_) => return Err(SourceError::Failed("the fetch was given up".into())),
            }
        }
        Ok(())
    }
}

/// The ranges of a set; an unbounded end can't come from bounded ranges.
fn ranges(groups: &Groups) -> Vec<Range<u64>> {
    let boundaries: &[u64] = groups.boundaries();
    boundaries.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect()
}
