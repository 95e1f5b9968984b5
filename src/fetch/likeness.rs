//! What a changed file has in common with its old content needn't come: windows of the new blob are made of the old one.
//!
//! For each window the owner tells its outline. Chunks that the old content has too say where parts of the new one can be
//! copied from, and the hashes tell whether a group that was made so is the blob's: only then it's put. What can't be made
//! is fetched like anything else. Only what is fetched ahead of a reader or for a whole tree is made so: for a single read
//! it would take longer than fetching what it touches.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    num::NonZeroUsize,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use lru::LruCache;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use super::holder::{Holders, Piece, Refused, Urgency, Want};
use crate::{
    blob::{
        Blob, Chunk, ChunkList, GROUP, Groups, Outline, ReadAt, WINDOW, count, ranges, window_groups, windows,
    },
    store::{ReadStore, StoreError, WriteStore},
    types::{PathKey, WorkspaceId},
};

/// Smaller blobs are fetched as they are.
pub(super) const LEAST: u64 = 2 << 20;

/// Large blobs whose likeness, or that there's none, is remembered.
const BLOBS: usize = 256;

/// Windows of old content whose chunks are remembered for one blob.
const WINDOWS: usize = 8;

/// Content that grew or shrank by more is looked for where it would be if it had moved at one place only.
const REACH: u64 = 32 << 20;

/// A window of which not even one in so many bytes was found is a fruitless one …
const FRUITFUL: u64 = 8;

/// … and so many of them more than others are the end of the search. (They are 64 MiB: so much may be new in one place.)
const FRUITLESS: u64 = 8;

/// The outline of a window must be here after this time.
const OUTLINE: Duration = Duration::from_secs(2);

/// How long a reader waits for what is being made, before it's fetched: a few times what making a window takes.
const PATIENCE: Duration = Duration::from_millis(500);

/// Windows that are made at a time, of all files: each takes a core.
const AT_A_TIME: usize = 2;

/// Which blobs are like older ones.
pub(super) struct Likenesses {
    store: Arc<dyn WriteStore>,
    holders: Arc<dyn Holders>,
    known: Mutex<LruCache<(WorkspaceId, Blob), Known>>,
    turns: Semaphore,
}

struct Known {
    likeness: Option<Arc<Likeness>>,
    /// Where the blob is to be noted as the one at its path.
    path: Option<PathKey>,
}

/// A blob of which parts can be made of what was at its path before.
pub(super) struct Likeness {
    workspace: WorkspaceId,
    new: Blob,
    old: Blob,
    state: Mutex<State>,
}

struct State {
    /// Windows that are or were made, or tried.
    begun: Groups,
    /// Those that are being made: the senders go when they are.
    under_way: HashMap<u64, watch::Receiver<()>>,
    fruitful: u64,
    fruitless: u64,
    /// What is to be added to a place in the new content for that in the old one, where something was found last.
    moved: i64,
    /// Chunks of the old content.
    chunks: LruCache<u64, Arc<Vec<Chunk>>>,
}

/// Windows that are being made.
#[derive(Default)]
pub(super) struct Making(Vec<watch::Receiver<()>>);

impl Making {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what else is to be waited for.
    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns when they are made, as far as they can be.
    pub(super) async fn wait(self) {
        for mut window in self.0 {
            // Nothing is ever sent: its end is the sign.
            let _ = window.changed().await;
        }
    }

    /// As [`Making::wait`], for a reader who waits: fetching wouldn't take as long.
    pub(super) async fn wait_a_little(self) {
        let _ = timeout(PATIENCE, self.wait()).await;
    }
}

impl Likenesses {
    pub(super) fn new(store: Arc<dyn WriteStore>, holders: Arc<dyn Holders>) -> Self {
        let blobs = NonZeroUsize::new(BLOBS).unwrap_or(NonZeroUsize::MIN);
        Self { store, holders, known: Mutex::new(LruCache::new(blobs)), turns: Semaphore::new(AT_A_TIME) }
    }

    fn known(&self) -> MutexGuard<'_, LruCache<(WorkspaceId, Blob), Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The likeness of a blob, which is now at `path`, to what was there before. The path is asked for once.
    pub(super) fn of(
        &self,
        workspace: &WorkspaceId,
        blob: &Blob,
        path: impl FnOnce() -> Option<PathKey>,
    ) -> Option<Arc<Likeness>> {
        if blob.size < LEAST {
            return None;
        }
        if let Some(known) = self.known().get(&(*workspace, *blob)) {
            return known.likeness.clone();
        }
        let path = path();
        let last = path.and_then(|path| self.store.at(workspace, path).ok().flatten());
        let old = last.filter(|old| old != blob && old.size >= LEAST && is_mostly_held(&*self.store, old));
        let likeness = old.map(|old| Arc::new(Likeness::new(*workspace, *blob, old)));
        let known = Known { likeness: likeness.clone(), path: path.filter(|_| last != Some(*blob)) };
        self.known().put((*workspace, *blob), known);
        likeness
    }

    /// Notes the blob, of which something has been put, as the one at its path: at once, or when there's as much of it
    /// that it can take the place of the older one.
    pub(super) fn note(&self, workspace: &WorkspaceId, blob: &Blob) -> Result<(), StoreError> {
        if blob.size < LEAST {
            return Ok(());
        }
        let key = (*workspace, *blob);
        let (path, likeness) = match self.known().peek(&key) {
            Some(Known { path: Some(path), likeness }) => (*path, likeness.clone()),
            _ => return Ok(()),
        };
        if likeness.is_some_and(|likeness| !likeness.is_given_up() && !is_mostly_held(&*self.store, blob)) {
            return Ok(());
        }
        self.store.note_at(workspace, path, blob)?;
        if let Some(known) = self.known().peek_mut(&key) {
            known.path = None;
        }
        Ok(())
    }

    /// Sets out to make the windows of some groups, unless that has been done, and gives what to wait for.
    pub(super) fn begin(self: &Arc<Self>, likeness: &Arc<Likeness>, groups: &Range<u64>) -> Making {
        let mut making = Making::default();
        let mut state = likeness.state();
        for window in windows_of(groups) {
            if let Some(under_way) = state.under_way.get(&window) {
                making.0.push(under_way.clone());
            } else if !state.is_given_up() && !state.begun.contains(&window) {
                let (sender, receiver) = watch::channel(());
                state.begun |= Groups::from(window..window + 1);
                state.under_way.insert(window, receiver.clone());
                making.0.push(receiver);
                let (likenesses, likeness) = (self.clone(), likeness.clone());
                tokio::spawn(async move {
                    likenesses.make(&likeness, window).await;
                    likeness.end(window);
                    drop(sender);
                });
            }
        }
        making
    }

    /// Makes what can be made of a window.
    async fn make(self: &Arc<Self>, likeness: &Arc<Likeness>, window: u64) {
        let groups = window_groups(&likeness.new, window);
        let held = self.store.held(&likeness.new).unwrap_or_else(|_| Groups::empty());
        let mut missing = Groups::from(groups);
        missing -= held;
        if missing.is_empty() {
            return;
        }
        let outline = timeout(OUTLINE, self.outline(likeness, window)).await.unwrap_or_default();
        let made = match (outline, self.turns.acquire().await) {
            (Some(outline), Ok(_turn)) => {
                let (likenesses, likeness, missing) = (self.clone(), likeness.clone(), missing.clone());
                let work = move || likenesses.compare(&likeness, window, &outline, &missing);
                tokio::task::spawn_blocking(work).await.unwrap_or_default()
            }
            _ => 0,
        };
        let wanted = count(&missing) * GROUP;
        tracing::debug!(window, wanted, made, "a window was made of older content");
        let mut state = likeness.state();
        match made < wanted / FRUITFUL {
            true => state.fruitless += 1,
            false => state.fruitful += 1,
        }
    }

    /// Asks for the outline of a window.
    async fn outline(&self, likeness: &Likeness, window: u64) -> Option<Outline> {
        // By itself: a peer that can't answer it shall still answer the rest.
        let want = [Want::Outline { blob: likeness.new, window }];
        for holder in self.holders.holders(&likeness.workspace) {
            let mut outline = None;
            let mut sink = |_: usize, piece: Result<Piece, Refused>| {
                if let Ok(Piece::Outline(piece)) = piece
                    && piece.is_of(&likeness.new, window)
                {
                    outline = Some(piece);
                }
            };
            if let Err(error) =
                holder.fetch(&likeness.workspace, &want, Urgency { awaited: 1, bulk: false }, &mut sink).await
            {
                tracing::debug!(%error, "asking for an outline failed");
            }
            if outline.is_some() {
                return outline;
            }
        }
        None
    }

    /// Makes those of the missing groups that can be made, and gives how many bytes they have.
    fn compare(&self, likeness: &Likeness, window: u64, outline: &Outline, missing: &Groups) -> u64 {
        let old = likeness.chunks_near(&*self.store, window);
        let mut parts: Vec<Part> = Vec::new();
        for chunk in outline.chunks() {
            let Some(from) = old.get(&(chunk.mark, chunk.length)) else { continue };
            match parts.last_mut() {
                Some(last) if last.end == chunk.offset && last.from + (last.end - last.start) == *from => {
                    last.end = chunk.end();
                }
                _ => parts.push(Part { start: chunk.offset, end: chunk.end(), from: *from }),
            }
        }
        if let Some(last) = parts.last() {
            likeness.state().moved = (last.from as i64).saturating_sub(last.start as i64);
        }
        let old = Stored { store: &*self.store, blob: likeness.old };
        let size = likeness.new.size;
        let found = ranges(missing).flatten().filter_map(|group| {
            let bytes = group * GROUP..size.min((group + 1) * GROUP);
            Some((group, copy(&old, &parts, bytes)?))
        });
        let mut made = 0;
        outline.hashes().check(found, |slice| {
            let kept = self.store.put_slice(&slice).and_then(|()| {
                self.store.note(&likeness.workspace, &likeness.new.digest)?;
                self.note(&likeness.workspace, &likeness.new)
            });
            match kept {
                Ok(()) => made += slice.leaves().iter().map(|leaf| leaf.len() as u64).sum::<u64>(),
                Err(error) => tracing::debug!(%error, "what was made can't be kept"),
            }
        });
        made
    }
}

impl State {
    fn is_given_up(&self) -> bool {
        self.fruitless >= self.fruitful + FRUITLESS
    }
}

impl Likeness {
    fn new(workspace: WorkspaceId, new: Blob, old: Blob) -> Self {
        let windows = NonZeroUsize::new(WINDOWS).unwrap_or(NonZeroUsize::MIN);
        let state = State {
            begun: Groups::empty(),
            under_way: HashMap::new(),
            fruitful: 0,
            fruitless: 0,
            moved: 0,
            chunks: LruCache::new(windows),
        };
        Self { workspace, new, old, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_given_up(&self) -> bool {
        self.state().is_given_up()
    }

    /// Ends the making of a window. When no more can be begun, nothing will be compared with.
    fn end(&self, window: u64) {
        let mut state = self.state();
        state.under_way.remove(&window);
        let all = state.begun.is_superset(&Groups::from(0..windows(self.new.size)));
        if all && state.under_way.is_empty() {
            state.chunks.clear();
        }
    }

    /// Those of the windows of some groups that are being made.
    pub(super) fn under_way(&self, groups: &Range<u64>) -> Making {
        let state = self.state();
        Making(windows_of(groups).filter_map(|window| state.under_way.get(&window).cloned()).collect())
    }

    /// Where the old content may have what a window of the new one has: windows of it.
    fn near(&self, window: u64) -> BTreeSet<u64> {
        let moved = self.state().moved;
        let grown = (self.new.size as i64).saturating_sub(self.old.size as i64);
        let start = window.saturating_mul(WINDOW) as i64;
        let end = start.saturating_add(WINDOW as i64);
        // What lies before all changes hasn't moved, what lies behind them has by the whole, the rest by something between.
        let mut places = vec![(moved, moved)];
        if grown.unsigned_abs() <= REACH {
            places.push((0.min(-grown), 0.max(-grown)));
        } else {
            places.extend([(0, 0), (grown.saturating_neg(), grown.saturating_neg())]);
        }
        let last = windows(self.old.size);
        let near = places.into_iter().flat_map(|(least, most)| {
            let start = start.saturating_add(least).max(0) as u64;
            let end = end.saturating_add(most).max(0) as u64;
            start / WINDOW..end.div_ceil(WINDOW).min(last)
        });
        near.collect()
    }

    /// Where the old content has which chunks, near to where a window of the new one would have been.
    fn chunks_near(&self, store: &dyn ReadStore, window: u64) -> HashMap<([u8; 8], u32), u64> {
        let mut found = HashMap::new();
        for window in self.near(window) {
            let known = self.state().chunks.get(&window).cloned();
            let chunks = known.unwrap_or_else(|| {
                let chunks = Arc::new(chunks_held(store, self.old, window));
                self.state().chunks.put(window, chunks.clone());
                chunks
            });
            found.extend(chunks.iter().map(|chunk| ((chunk.mark, chunk.length), chunk.offset)));
        }
        found
    }
}

/// A part of the new content that the old one has from `from` on.
struct Part {
    start: u64,
    end: u64,
    from: u64,
}

/// Some bytes of the new content out of the old one, if it has them all.
fn copy(old: &impl ReadAt, parts: &[Part], bytes: Range<u64>) -> Option<Bytes> {
    let mut buffer = vec![0; (bytes.end - bytes.start) as usize];
    let mut position = bytes.start;
    let first = parts.partition_point(|part| part.end <= position);
    for part in &parts[first..] {
        if position >= bytes.end || part.start > position {
            break;
        }
        let end = part.end.min(bytes.end);
        let target = &mut buffer[(position - bytes.start) as usize..(end - bytes.start) as usize];
        old.read_exact_at(target, part.from + (position - part.start)).ok()?;
        position = end;
    }
    (position >= bytes.end).then(|| buffer.into())
}

/// The chunks in a window of a blob, as far as it is held.
fn chunks_held(store: &dyn ReadStore, blob: Blob, window: u64) -> Vec<Chunk> {
    let stored = Stored { store, blob };
    let held = store.held(&blob).unwrap_or_else(|_| Groups::empty());
    let groups = window_groups(&blob, window);
    let touching = ranges(&held);
    let touching = touching.filter(|range| range.start < groups.end && groups.start < range.end);
    let lists = touching.filter_map(|range| {
        let bytes = range.start * GROUP..blob.size.min(range.end * GROUP);
        ChunkList::of_window(&stored, bytes, window).ok()
    });
    lists.flat_map(|list| list.chunks().to_vec()).collect()
}

/// Whether at least half of a blob is held: less is no help, and a later change is rather like what there's more of.
fn is_mostly_held(store: &dyn ReadStore, blob: &Blob) -> bool {
    let held = store.held(blob).unwrap_or_else(|_| Groups::empty());
    count(&held) >= blob.groups().div_ceil(2)
}

fn windows_of(groups: &Range<u64>) -> Range<u64> {
    const GROUPS: u64 = WINDOW / GROUP;
    groups.start / GROUPS..groups.end.div_ceil(GROUPS)
}

/// A blob as the store has it.
struct Stored<'a> {
    store: &'a dyn ReadStore,
    blob: Blob,
}

impl ReadAt for Stored<'_> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.store.read_at(&self.blob, offset, buffer) {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
