use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{sync::watch, time::Instant};

use super::{
    holder::{Piece, Want},
    source::SourceError,
};

/// How a fetch ended; none while it's under way.
///
/// The piece that came goes along, so that whoever waits for it gets it even when it couldn't be kept. There's none when
/// it turned out to be held.
type Outcome = Option<Result<Option<Arc<Piece>>, SourceError>>;

/// How far a fetch is.
#[derive(Default)]
struct Stage {
    outcome: Outcome,
    /// Whether what came has been put into the store as well, if it can be.
    over: bool,
}

/// A want that is queued or under way.
pub(super) struct Job {
    pub(super) want: Want,
    /// Whether it is to be fetched although the store may say that it's held: it couldn't be read.
    pub(super) anew: bool,
    pub(super) since: Instant,
    stage: watch::Sender<Stage>,
    /// Whether it's under way in a bulk request, and in no other.
    bulk: AtomicBool,
    /// What it takes of the budget for what nobody waits for yet.
    _ahead: Option<Reserved>,
}

impl Job {
    pub(super) fn new(want: Want, anew: bool, ahead: Option<Reserved>) -> Arc<Self> {
        let (stage, bulk) = (watch::Sender::default(), AtomicBool::new(false));
        Arc::new(Self { want, anew, since: Instant::now(), stage, bulk, _ahead: ahead })
    }

    /// Notes whether it's under way in a bulk request alone; gives what was noted before.
    pub(super) fn set_bulk(&self, bulk: bool) -> bool {
        self.bulk.swap(bulk, Ordering::Relaxed)
    }

    pub(super) fn is_open(&self) -> bool {
        self.stage.borrow().outcome.is_none()
    }

    /// Whether somebody waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.stage.receiver_count() > 0
    }

    /// Gives it its outcome, unless it has one.
    pub(super) fn close(&self, outcome: Result<Option<Arc<Piece>>, SourceError>) {
        self.stage.send_if_modified(|stage| stage.close(outcome));
    }

    /// Gives it its outcome, unless it has one, and ends it.
    pub(super) fn end(&self, outcome: Result<Option<Arc<Piece>>, SourceError>) {
        self.stage.send_modify(|stage| {
            stage.close(outcome);
            stage.over = true;
        });
    }

    pub(super) fn is_met_by(&self, piece: &Piece) -> bool {
        match (&self.want, piece) {
            (Want::Tree(wanted), Piece::Tree { digest, .. }) => wanted == digest,
            (Want::Blob(wanted), Piece::Blob(blob)) => wanted.digest == blob.digest(),
            (Want::Slice { blob, groups }, Piece::Slice(slice)) => {
                *blob == slice.blob() && *groups == slice.groups()
            }
            _ => false,
        }
    }
}

impl Stage {
    fn close(&mut self, outcome: Result<Option<Arc<Piece>>, SourceError>) -> bool {
        let open = self.outcome.is_none();
        if open {
            self.outcome = Some(outcome);
        }
        open
    }
}

/// Fetches to wait for.
#[derive(Default)]
pub(super) struct Ticket {
    stages: Vec<watch::Receiver<Stage>>,
    is_new: bool,
}

impl Ticket {
    pub(super) fn add(&mut self, job: &Job) {
        self.stages.push(job.stage.subscribe());
    }

    /// Adds a fetch that nobody else has asked for.
    pub(super) fn add_new(&mut self, job: &Job) {
        self.add(job);
        self.is_new = true;
    }

    /// Whether some of it wasn't on its way before.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Returns the pieces that came when all are here, or the first error.
    pub(super) async fn wait(self) -> Result<Vec<Arc<Piece>>, SourceError> {
        self.wait_for(|stage| stage.outcome.is_some()).await
    }

    /// As [`Ticket::wait`], when all has been put into the store as well, as far as it can be.
    pub(super) async fn wait_until_put(self) -> Result<Vec<Arc<Piece>>, SourceError> {
        self.wait_for(|stage| stage.over).await
    }

    async fn wait_for(self, reached: fn(&Stage) -> bool) -> Result<Vec<Arc<Piece>>, SourceError> {
        let mut pieces = Vec::with_capacity(self.stages.len());
        for mut stage in self.stages {
            match stage.wait_for(reached).await {
                Ok(stage) => pieces.extend(stage.outcome.clone().unwrap_or(Ok(None))?),
                Err(_) => return Err(SourceError::Failed("the fetch was given up".into())),
            }
        }
        Ok(pieces)
    }
}

/// Bytes that may be fetched, over all workspaces, before anybody asks for them.
pub(super) struct Budget {
    limit: u64,
    taken: AtomicU64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicU64::new(0) })
    }

    /// Takes `bytes` of the budget until the result is dropped; none when there isn't as much left.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reserved> {
        let add = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= self.limit);
        self.taken.try_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Reserved { budget: self.clone(), bytes })
    }
}

/// A part of a budget, which is given back when this is dropped.
pub(super) struct Reserved {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_kept_and_given_back() {
        let budget = Budget::new(10);
        let six = budget.reserve(6);
        assert!(six.is_some() && budget.reserve(5).is_none());
        let four = budget.reserve(4);
        assert!(four.is_some() && budget.reserve(1).is_none());
        drop(six);
        assert!(budget.reserve(6).is_some());
    }
}
