//! What was put and isn't recorded yet: visible to reads at once, on the disk within a second.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    large::Large,
    pack::{PackedKey, Place},
};
use crate::{
    blob::Blob,
    store::lock,
    types::{Digest, PathKey, WorkspaceId},
};

/// Content, and the workspace as a part of which it came.
pub(super) type Note = (Digest, WorkspaceId);

/// A path of a workspace.
pub(super) type PathNote = (WorkspaceId, PathKey);

/// Bytes put after which the flusher doesn't wait any longer.
const BYTES_MAX: u64 = 32 << 20;

/// Uses remembered after which they are recorded even when nothing is put.
const TOUCHED_MAX: usize = 1 << 16;

/// What one commit records.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// New places with their last use; none for pieces that are no longer held.
    pub(super) packed: HashMap<PackedKey, Option<(Place, u64)>>,
    /// Last uses of packed pieces.
    pub(super) touched: HashMap<PackedKey, u64>,
    /// Large blobs whose row is out of date.
    pub(super) large: HashMap<Blob, Arc<Large>>,
    /// What came for whom. It was put before, so its place is here or in the index, unless it was evicted since.
    pub(super) notes: HashSet<Note>,
    /// The blobs of paths; for each there's a note.
    pub(super) paths: HashMap<PathNote, Blob>,
    bytes: u64,
    since: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    now: Batch,
    /// What is being recorded: to be seen here until the index has it.
    committing: Option<Arc<Batch>>,
    stop: bool,
}

impl State {
    /// What isn't recorded yet, newest first.
    fn batches(&self) -> impl Iterator<Item = &Batch> {
        [&self.now].into_iter().chain(self.committing.as_deref())
    }

    /// Counts a put; wakes the flusher when it would wait too long otherwise.
    fn put(&mut self, bytes: u64, changed: &Condvar) {
        let full = self.now.bytes >= BYTES_MAX;
        self.now.bytes += bytes;
        if self.now.since.is_none() || (!full && self.now.bytes >= BYTES_MAX) {
            self.now.since.get_or_insert_with(Instant::now);
            changed.notify_all();
        }
    }
}

impl Pending {
    /// What is known here about a piece: its place, that it isn't held (inner none), or nothing (outer none).
    pub(super) fn place(&self, key: &PackedKey) -> Option<Option<Place>> {
        let state = lock(&self.state);
        let committing = || state.committing.as_ref().and_then(|batch| batch.packed.get(key));
        let change = state.now.packed.get(key).or_else(committing)?;
        Some(change.map(|(place, _)| place))
    }

    /// Notes a piece's new place, or that it isn't held any longer.
    pub(super) fn set_place(&self, key: PackedKey, place: Option<(Place, u64)>) {
        let mut state = lock(&self.state);
        state.put(place.map_or(0, |(place, _)| u64::from(place.length)), &self.changed);
        state.now.packed.insert(key, place);
    }

    /// Notes a use of a packed piece.
    pub(super) fn touch(&self, key: PackedKey, time: u64) {
        let mut state = lock(&self.state);
        state.now.touched.insert(key, time);
        if state.now.touched.len() == TOUCHED_MAX {
            state.put(0, &self.changed);
        }
    }

    /// Notes a use of a large blob.
    pub(super) fn touch_large(&self, large: &Arc<Large>) {
        lock(&self.state).now.large.entry(large.blob()).or_insert_with(|| large.clone());
    }

    /// Notes that other groups of a large blob are held than before, after `bytes` were written.
    pub(super) fn change_large(&self, large: &Arc<Large>, bytes: u64) {
        let mut state = lock(&self.state);
        state.put(bytes, &self.changed);
        state.now.large.insert(large.blob(), large.clone());
    }

    /// Notes for whom content came, and for which path.
    pub(super) fn note(&self, note: Note, path: Option<(PathKey, Blob)>) {
        let mut state = lock(&self.state);
        state.put(0, &self.changed);
        state.now.notes.insert(note);
        if let Some((path, blob)) = path {
            state.now.paths.insert((note.1, path), blob);
        }
    }

    pub(super) fn is_noted(&self, note: &Note) -> bool {
        let state = lock(&self.state);
        state.batches().any(|batch| batch.notes.contains(note))
    }

    /// The blob of a path, as far as it isn't recorded yet.
    pub(super) fn at(&self, path: &PathNote) -> Option<Blob> {
        let state = lock(&self.state);
        state.batches().find_map(|batch| batch.paths.get(path)).copied()
    }

    /// Calls `each` for every place that isn't recorded yet.
    pub(super) fn each_place(&self, mut each: impl FnMut(Place)) {
        let state = lock(&self.state);
        state.batches().flat_map(|batch| batch.packed.values()).flatten().for_each(|(place, _)| each(*place));
    }

    /// Takes what is to be recorded. Each begin is followed by [`Pending::end`], with nothing between from another thread.
    pub(super) fn begin(&self) -> Arc<Batch> {
        let mut state = lock(&self.state);
        let batch = Arc::new(mem::take(&mut state.now));
        state.committing = Some(batch.clone());
        batch
    }

    /// Forgets what was recorded, or keeps it for another try a while later.
    pub(super) fn end(&self, batch: Arc<Batch>, recorded: bool) {
        let mut state = lock(&self.state);
        state.committing = None;
        if recorded {
            return;
        }
        let now = &mut state.now;
        for (key, change) in &batch.packed {
            now.packed.entry(*key).or_insert(*change);
        }
        for (key, time) in &batch.touched {
            now.touched.entry(*key).or_insert(*time);
        }
        for (blob, large) in &batch.large {
            now.large.entry(*blob).or_insert_with(|| large.clone());
        }
        now.notes.extend(&batch.notes);
        for (path, blob) in &batch.paths {
            now.paths.entry(*path).or_insert(*blob);
        }
        now.since = Some(Instant::now());
    }

    /// Waits until something has to be recorded; false when the store closes.
    pub(super) fn wait(&self, delay: Duration) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return false;
            }
            let left = match state.now.since {
                Some(_) if state.now.bytes >= BYTES_MAX => Duration::ZERO,
                Some(since) => delay.saturating_sub(since.elapsed()),
                None => Duration::MAX,
            };
            if left.is_zero() {
                return true;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends [`Pending::wait`].
    pub(super) fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_all();
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        // There's no path without a note.
        self.packed.is_empty() && self.touched.is_empty() && self.large.is_empty() && self.notes.is_empty()
    }
}
