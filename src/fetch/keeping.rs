use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::JoinHandle;

use super::{
    holder::{Piece, Want},
    job::Job,
    lane::Lane,
    source::SourceError,
};
use crate::store::StoreError;

/// Puts the pieces of one answer into the store, in the order in which they came, on a thread that may wait for the disk.
///
/// No more waits here than one answer brings, which its request bounds: the next isn't asked for before this is done.
/// A thread is taken only while there's something to put, so that a slow peer holds none.
pub(super) struct Keeping {
    lane: Arc<Lane>,
    jobs: Vec<Arc<Job>>,
    arrived: Mutex<Arrived>,
}

#[derive(Default)]
struct Arrived {
    pieces: VecDeque<(usize, Arc<Piece>)>,
    /// The latest thread that puts them, and whether it will still look for more.
    writer: Option<JoinHandle<()>>,
    writing: bool,
}

impl Keeping {
    pub(super) fn new(lane: Arc<Lane>, jobs: Vec<Arc<Job>>) -> Arc<Self> {
        Arc::new(Self { lane, jobs, arrived: Mutex::default() })
    }

    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job at `position`, if the piece is what it's for.
    fn met(&self, position: usize, piece: &Piece) -> Option<&Arc<Job>> {
        self.jobs.get(position).filter(|job| job.is_met_by(piece))
    }

    /// Takes a piece that came for the job at `position`, and gives it to whoever waits. Until it has been put, the job
    /// stays where others find it.
    pub(super) fn add(self: &Arc<Self>, position: usize, piece: Piece) {
        let piece = Arc::new(piece);
        // A tree object is checked when it's put.
        if !matches!(&*piece, Piece::Tree { .. })
            && let Some(job) = self.met(position, &piece)
        {
            job.close(Ok(Some(piece.clone())));
        }
        let mut arrived = self.arrived();
        arrived.pieces.push_back((position, piece));
        if !arrived.writing {
            arrived.writing = true;
            let keeping = self.clone();
            arrived.writer = Some(tokio::task::spawn_blocking(move || keeping.write()));
        }
    }

    /// Returns when all that came has been put and its jobs have their outcomes; false if putting it panicked.
    pub(super) async fn done(&self) -> bool {
        // An earlier thread has ended before the latest one was started.
        let writer = self.arrived().writer.take();
        match writer {
            Some(writer) => writer.await.is_ok(),
            None => true,
        }
    }

    fn write(&self) {
        loop {
            let mut arrived = self.arrived();
            let Some((position, piece)) = arrived.pieces.pop_front() else {
                arrived.writing = false;
                return;
            };
            drop(arrived);
            self.keep(position, piece);
        }
    }

    /// Puts a piece and ends every job that it meets. What can't be kept still reaches whoever waits for it.
    fn keep(&self, position: usize, piece: Arc<Piece>) {
        let kept = self.lane.put(&piece);
        if let Err(error) = &kept {
            tracing::debug!(%error, "what was fetched can't be kept");
        }
        let outcome = |piece: &Arc<Piece>| match (&**piece, &kept) {
            // The only piece that is checked when it's put.
            (Piece::Tree { .. }, Err(error @ StoreError::Corrupt(_))) => {
                Err(SourceError::Failed(error.to_string()))
            }
            _ => Ok(Some(piece.clone())),
        };
        if let Some(job) = self.met(position, &piece) {
            self.lane.finish(job, outcome(&piece));
        } else if let Piece::Tree { digest, .. } = &*piece
            && kept.is_ok()
            && let Some(job) = self.lane.find(&Want::Tree(*digest))
        {
            // It came along with a folder above it.
            self.lane.finish(&job, outcome(&piece));
        }
    }
}
