use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{
    holder::{Holder, HolderError, Holders, Piece, Refused, Urgency, Want},
    job::{Budget, Job, Ticket},
    keeping::Keeping,
    likeness::Likenesses,
    source::SourceError,
    tally::Tally,
};
use crate::{
    blob::{Blob, Groups, slices},
    store::{StoreError, WriteStore},
    types::{Digest, WorkspaceId},
};

/// Requests that one workspace has under way at a time. Two keep the link busy while one answer is being unpacked; the
/// others let a demand overtake readahead.
const REQUESTS: usize = 4;

/// The same where content comes from several: their answers come at different times, and a request ends with its last.
const REQUESTS_OF_SEVERAL: usize = 8;

/// Bytes that one request asks for, about: a quarter of what fits on a gigabit link in 100 ms.
const REQUEST_BYTES: u64 = 3 << 20;

/// Pieces in one request.
const REQUEST_PIECES: usize = 1024;

/// Bytes in a second that an answer must bring at least, beyond the deadline: below that nobody can work with it.
const SLOWEST: u64 = 1_000_000;

/// How long a bulk request may take: nobody is kept from anything by it, and a holder that has gone is noticed otherwise.
const BULK_PATIENCE: Duration = Duration::from_secs(3600);

/// The pause before holders that couldn't be reached are asked again; it doubles each time …
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// … up to this.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// How urgent a fetch is: demand goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Somebody waits.
    Demand,
    /// Somebody will probably ask.
    Readahead,
    /// A program that is being started has read it before.
    Launch,
    /// Somebody waits whom it keeps from nothing.
    Bulk,
}

/// What one workspace is fetching.
pub(super) struct Lane {
    workspace: WorkspaceId,
    store: Arc<dyn WriteStore>,
    holders: Arc<dyn Holders>,
    /// How long somebody waits at most.
    deadline: Duration,
    ahead: Arc<Budget>,
    likenesses: Arc<Likenesses>,
    tally: Arc<Tally>,
    /// Whether what was asked for last didn't come in time: then nothing is asked for ahead.
    late: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    demand: VecDeque<Arc<Job>>,
    readahead: VecDeque<Arc<Job>>,
    launch: VecDeque<Arc<Job>>,
    bulk: VecDeque<Arc<Job>>,
    open: Open,
    requests: usize,
}

/// What is queued or under way, to be found by what it brings.
#[derive(Default)]
struct Open {
    /// Trees and small blobs.
    whole: HashMap<Want, Arc<Job>>,
    slices: HashMap<Digest, Vec<Arc<Job>>>,
}

impl Lane {
    pub(super) fn new(
        workspace: WorkspaceId,
        store: Arc<dyn WriteStore>,
        holders: Arc<dyn Holders>,
        deadline: Duration,
        ahead: Arc<Budget>,
        likenesses: Arc<Likenesses>,
        tally: Arc<Tally>,
    ) -> Self {
        let (late, state) = (AtomicBool::new(false), Mutex::default());
        Self { workspace, store, holders, deadline, ahead, likenesses, tally, late, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a tree object or small blob that the caller found lacking unless that has been done, and gives what to
    /// wait for; `anew` if it may be held but can't be read.
    pub(super) fn whole(self: &Arc<Self>, want: Want, anew: bool) -> Ticket {
        self.queue_whole(want, anew, Class::Demand)
    }

    /// Queues what is missing of a blob, behind all else.
    pub(super) fn bulk(self: &Arc<Self>, blob: Blob, groups: Range<u64>) -> Ticket {
        self.queue_missing(blob, groups, Class::Bulk)
    }

    /// Queues what is missing of a blob that a launch will read.
    pub(super) fn launch(self: &Arc<Self>, blob: Blob, groups: Range<u64>) -> Ticket {
        self.queue_missing(blob, groups, Class::Launch)
    }

    fn queue_missing(self: &Arc<Self>, blob: Blob, groups: Range<u64>, class: Class) -> Ticket {
        if !blob.is_whole() {
            return self.queue_slices(blob, groups, false, class);
        }
        match self.store.held(&blob) {
            Ok(held) if held.is_superset(&Groups::from(groups)) => Ticket::default(),
            _ => self.queue_whole(Want::Blob(blob), false, class),
        }
    }

    fn queue_whole(self: &Arc<Self>, want: Want, anew: bool, class: Class) -> Ticket {
        let mut state = self.state();
        let mut ticket = Ticket::default();
        match state.open.whole.get(&want) {
            Some(job) => {
                let job = job.clone();
                ticket.add(&job);
                state.promote(&job, class);
            }
            None => {
                let job = Job::new(want.clone(), anew, None);
                ticket.add_new(&job);
                state.open.whole.insert(want, job.clone());
                state.queue(class).push_back(job);
            }
        }
        self.start(&mut state);
        ticket
    }

    /// Queues those of some tree objects and blobs that aren't held, in this order, behind all that somebody waits for and as
    /// far as the budget goes.
    pub(super) fn along(self: &Arc<Self>, wants: impl Iterator<Item = Want>) {
        if self.late.load(Ordering::Relaxed) {
            return;
        }
        let lacking = |want: &Want| match want {
            Want::Blob(blob) if blob.is_whole() => self.store.held(blob).is_ok_and(|held| held.is_empty()),
            // Looked for when its turn comes, since that takes a read.
            _ => true,
        };
        let lacking: Vec<Want> = wants.filter(lacking).collect();
        let mut state = self.state();
        for want in lacking {
            if let Want::Blob(blob) = want
                && !blob.is_whole()
            {
                self.add_slices(&mut state, blob, 0..blob.groups(), false, Class::Readahead);
                continue;
            }
            if state.open.whole.contains_key(&want) {
                continue;
            }
            let Some(reserved) = self.ahead.reserve(want.cost()) else { break };
            let job = Job::new(want.clone(), false, Some(reserved));
            state.open.whole.insert(want, job.clone());
            state.readahead.push_back(job);
        }
        self.start(&mut state);
    }

    /// Queues what is missing of `groups` unless that has been done, and gives what to wait for; with `anew` all of them
    /// count as missing.
    pub(super) fn slice(self: &Arc<Self>, blob: Blob, groups: Range<u64>, anew: bool) -> Ticket {
        self.queue_slices(blob, groups, anew, Class::Demand)
    }

    /// Queues what is missing of `groups`, behind all that somebody waits for and as far as the budget goes.
    pub(super) fn read_ahead(self: &Arc<Self>, blob: Blob, groups: Range<u64>) {
        if !self.late.load(Ordering::Relaxed) {
            self.queue_slices(blob, groups, false, Class::Readahead);
        }
    }

    /// As [`Lane::read_ahead`], for somebody else who waits.
    pub(super) async fn bring(self: &Arc<Self>, blob: Blob, groups: Range<u64>) {
        // Whether it's here is for them to look.
        let _ = self.queue_slices(blob, groups, false, Class::Readahead).wait_until_put().await;
    }

    /// Notes that somebody waited in vain.
    pub(super) fn note_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    fn queue_slices(self: &Arc<Self>, blob: Blob, groups: Range<u64>, anew: bool, class: Class) -> Ticket {
        let mut state = self.state();
        let ticket = self.add_slices(&mut state, blob, groups, anew, class);
        self.start(&mut state);
        ticket
    }

    fn add_slices(
        &self,
        state: &mut State,
        blob: Blob,
        groups: Range<u64>,
        anew: bool,
        class: Class,
    ) -> Ticket {
        let mut missing = Groups::from(groups);
        if !anew {
            // A store that can't say what it holds holds nothing.
            missing -= self.store.held(&blob).unwrap_or_else(|_| Groups::empty());
        }
        let mut ticket = Ticket::default();
        for job in state.open.slices.get(&blob.digest).cloned().unwrap_or_default() {
            let Want::Slice { blob: other, groups } = &job.want else { continue };
            let range = Groups::from(groups.clone());
            if *other == blob && missing.intersects(&range) {
                missing -= range;
                state.promote(&job, class);
                ticket.add(&job);
            }
        }
        for groups in slices(&missing) {
            let want = Want::Slice { blob, groups };
            let ahead = match class {
                // Bounded by whoever waits.
                Class::Demand | Class::Launch | Class::Bulk => None,
                Class::Readahead => match self.ahead.reserve(want.cost()) {
                    None => break,
                    reserved => reserved,
                },
            };
            let job = Job::new(want, anew, ahead);
            ticket.add_new(&job);
            state.open.slices.entry(blob.digest).or_default().push(job.clone());
            state.queue(class).push_back(job);
        }
        ticket
    }

    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        let state = self.state();
        state.requests > 0 || !state.open.whole.is_empty() || !state.open.slices.is_empty()
    }

    /// Starts another request if there is something to ask and room for it.
    fn start(self: &Arc<Self>, state: &mut State) {
        let most = self.most_requests();
        while state.requests < most
            && let Some(batch) = state.next_batch(most - state.requests)
        {
            state.requests += 1;
            tokio::spawn(self.clone().run(batch));
        }
    }

    fn most_requests(&self) -> usize {
        if self.holders.are_several() { REQUESTS_OF_SEVERAL } else { REQUESTS }
    }

    /// Carries out batches until there's nothing left to ask.
    async fn run(self: Arc<Self>, mut batch: Batch) {
        loop {
            let begun = Instant::now();
            // A panic ends this request, but neither the ones queued behind it nor the wait for its jobs.
            let _ = AssertUnwindSafe(self.request(&batch)).catch_unwind().await;
            tracing::trace!(
                pieces = batch.jobs.len(),
                bytes = batch.jobs.iter().map(|job| job.want.cost()).sum::<u64>(),
                first = ?batch.jobs.first().map(|job| &job.want),
                bulk = batch.bulk,
                took = ?begun.elapsed(),
                "a request ended"
            );
            for job in &batch.jobs {
                self.finish(job, Err(SourceError::Failed("the fetch was given up".into())));
            }
            let mut state = self.state();
            let room = (self.most_requests() + 1).saturating_sub(state.requests);
            match state.next_batch(room) {
                Some(next) => batch = next,
                None => {
                    state.requests -= 1;
                    return;
                }
            }
        }
    }

    /// Asks one holder after the other until every job of the batch has an outcome, and again after a pause if one of
    /// them couldn't be reached and somebody still waits.
    async fn request(self: &Arc<Self>, batch: &Batch) {
        let Batch { jobs: batch, bulk } = batch;
        for job in batch.iter().filter(|job| self.is_held(job)) {
            self.finish(job, Ok(None));
        }
        let cost: u64 = batch.iter().map(|job| job.want.cost()).sum();
        // In bulk others go before, for as long as the holder says so.
        let patience = if *bulk { BULK_PATIENCE } else { self.deadline };
        let limit = Instant::now() + patience + Duration::from_secs(cost.div_ceil(SLOWEST));
        let mut pause = FIRST_PAUSE;
        loop {
            let holders = self.holders.holders(&self.workspace);
            let mut nobody = holders.is_empty();
            let mut open: Vec<Asked> = batch.iter().filter(|job| job.is_open()).map(Asked::new).collect();
            for holder in holders {
                open.retain(|asked| asked.job.is_open());
                if open.is_empty() {
                    return;
                }
                nobody = self.ask(&*holder, &mut open, *bulk, limit).await == Err(HolderError::Nobody);
            }
            let mut again = false;
            for Asked { job, failure } in open.iter_mut().filter(|asked| asked.job.is_open()) {
                // Without anybody to ask, waiting would change nothing.
                let failure = failure.take().unwrap_or(SourceError::TimedOut);
                let late = failure == SourceError::TimedOut;
                if late {
                    self.note_late();
                }
                if late && !nobody && job.is_awaited() && job.since.elapsed() < self.deadline {
                    again = true;
                } else {
                    self.finish(job, Err(failure));
                }
            }
            if !again {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = LAST_PAUSE.min(pause * 2);
        }
    }

    /// Whether what a job is to bring has come since it was queued. (Slices can't have: they are looked for under the lock.)
    fn is_held(&self, job: &Job) -> bool {
        match &job.want {
            _ if job.anew => false,
            Want::Tree(digest) => matches!(self.store.tree(digest), Ok(Some(_))),
            Want::Blob(blob) => self.store.held(blob).is_ok_and(|held| !held.is_empty()),
            _ => false,
        }
    }

    /// Asks one holder for the open jobs; those that it doesn't end learn why.
    async fn ask(
        self: &Arc<Self>,
        holder: &dyn Holder,
        open: &mut [Asked],
        bulk: bool,
        limit: Instant,
    ) -> Result<(), HolderError> {
        let jobs: Vec<Arc<Job>> = open.iter().map(|asked| asked.job.clone()).collect();
        let wants: Vec<Want> = jobs.iter().map(|job| job.want.clone()).collect();
        let awaited = jobs.iter().take_while(|job| job.is_awaited()).count();
        let mut refused: Vec<Option<Refused>> = vec![None; jobs.len()];
        let keeping = Keeping::new(self.clone(), jobs);
        let mut sink = |position: usize, piece: Result<Piece, Refused>| match piece {
            Ok(piece) => keeping.add(position, piece),
            Err(why) => {
                if let Some(refused) = refused.get_mut(position) {
                    *refused = Some(why);
                }
            }
        };
        let fetch = holder.fetch(&self.workspace, &wants, Urgency { awaited, bulk }, &mut sink);
        let result = tokio::time::timeout_at(limit, fetch).await;
        let result = result.unwrap_or_else(|_| Err(HolderError::Unreachable("it takes too long".into())));
        let kept = keeping.done().await;
        if let Err(error) = &result {
            tracing::debug!(%error, "a fetch failed");
        }
        for (asked, refused) in open.iter_mut().zip(refused).filter(|(asked, _)| asked.job.is_open()) {
            match (refused, &result) {
                // What nobody knows any more has changed, unless somebody else says something else.
                (Some(Refused::Unknown), _) if asked.failure.is_some() => {}
                (Some(why), _) => asked.note(why.into()),
                (None, _) if !kept => asked.note(SourceError::Failed("the content can't be kept".into())),
                (None, Err(error)) => asked.note(error.clone().into()),
                (None, Ok(())) => asked.note(SourceError::Failed("the owner left it out".into())),
            }
        }
        result
    }

    /// Puts a piece into the store, and notes that it came for this workspace.
    pub(super) fn put(&self, piece: &Piece) -> Result<(), StoreError> {
        let digest = match piece {
            Piece::Tree { digest, object } => {
                self.tally.came(object.len() as u64);
                self.store.put_tree(*digest, object)?;
                *digest
            }
            Piece::Blob(blob) => {
                self.tally.came(blob.bytes().len() as u64);
                self.store.put_blob(blob)?;
                blob.digest()
            }
            Piece::Slice(slice) => {
                self.tally.came(slice.leaves().iter().map(|leaf| leaf.len() as u64).sum());
                self.store.put_slice(slice)?;
                self.likenesses.note(&self.workspace, &slice.blob())?;
                slice.blob().digest
            }
            // Never queued here: they are asked for by themselves.
            Piece::Outline(_) | Piece::Pending(_) => return Ok(()),
        };
        self.store.note(&self.workspace, &digest)
    }

    /// The job for a tree object or small blob, if there's one.
    pub(super) fn find(&self, want: &Want) -> Option<Arc<Job>> {
        self.state().open.whole.get(want).cloned()
    }

    /// Ends a job, unless it has an outcome; whoever comes from now on starts anew.
    pub(super) fn finish(&self, job: &Arc<Job>, outcome: Result<Option<Arc<Piece>>, SourceError>) {
        if let Ok(Some(_)) = outcome {
            self.late.store(false, Ordering::Relaxed);
        }
        self.state().open.remove(job);
        job.end(outcome);
    }
}

impl State {
    fn queue(&mut self, class: Class) -> &mut VecDeque<Arc<Job>> {
        match class {
            Class::Demand => &mut self.demand,
            Class::Readahead => &mut self.readahead,
            Class::Launch => &mut self.launch,
            Class::Bulk => &mut self.bulk,
        }
    }

    /// Moves a job that now somebody waits for ahead of what nobody waits for.
    fn promote(&mut self, job: &Arc<Job>, class: Class) {
        if class != Class::Demand {
            return;
        }
        for queue in [&mut self.readahead, &mut self.launch, &mut self.bulk] {
            if let Some(position) = queue.iter().position(|queued| Arc::ptr_eq(queued, job))
                && let Some(job) = queue.remove(position)
            {
                self.demand.push_back(job);
                return;
            }
        }
        // Its request may wait for its turn at the owner: then it's asked for once more, and what comes first counts.
        if job.set_bulk(false) {
            self.demand.push_back(job.clone());
        }
    }

    /// What the next request asks for while there's room for so many: all demand that fits, then readahead, then what launches
    /// read before, then bulk. What came in another answer, and what nobody waits for any more, is left out. The last request
    /// is kept for demand, the one before it from bulk.
    fn next_batch(&mut self, room: usize) -> Option<Batch> {
        let (mut batch, mut bulk) = (Vec::new(), false);
        let mut bytes = 0;
        for (class, kept) in [(Class::Demand, 0), (Class::Readahead, 1), (Class::Launch, 1), (Class::Bulk, 2)]
        {
            let queue = match class {
                Class::Demand => &mut self.demand,
                Class::Readahead => &mut self.readahead,
                Class::Launch => &mut self.launch,
                Class::Bulk => &mut self.bulk,
            };
            while kept < room
                && batch.len() < REQUEST_PIECES
                && let Some(job) = queue.front()
            {
                let wanted = job.is_open() && (class == Class::Readahead || job.is_awaited());
                let cost = job.want.cost();
                if wanted && !batch.is_empty() && bytes + cost > REQUEST_BYTES {
                    break;
                }
                let Some(job) = queue.pop_front() else { break };
                if wanted {
                    bytes += cost;
                    bulk = class == Class::Bulk && (bulk || batch.is_empty());
                    job.set_bulk(bulk);
                    batch.push(job);
                } else {
                    self.open.remove(&job);
                }
            }
        }
        (!batch.is_empty()).then_some(Batch { jobs: batch, bulk })
    }
}

/// What goes into one request.
struct Batch {
    jobs: Vec<Arc<Job>>,
    /// Whether all of it is bulk.
    bulk: bool,
}

impl Open {
    /// Removes this job, not another one for the same want.
    fn remove(&mut self, job: &Arc<Job>) {
        if let Want::Slice { blob, .. } = &job.want {
            if let Some(jobs) = self.slices.get_mut(&blob.digest) {
                jobs.retain(|other| !Arc::ptr_eq(other, job));
                if jobs.is_empty() {
                    self.slices.remove(&blob.digest);
                }
            }
        } else if self.whole.get(&job.want).is_some_and(|other| Arc::ptr_eq(other, job)) {
            self.whole.remove(&job.want);
        }
    }
}

/// A job that holders are asked for, and why it isn't done yet.
struct Asked {
    job: Arc<Job>,
    failure: Option<SourceError>,
}

impl Asked {
    fn new(job: &Arc<Job>) -> Self {
        Self { job: job.clone(), failure: None }
    }

    /// A holder that couldn't be reached may yet have it, whatever the others say.
    fn note(&mut self, failure: SourceError) {
        if self.failure != Some(SourceError::TimedOut) {
            self.failure = Some(failure);
        }
    }
}
