use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::mpsc;

use super::{
    holder::{Holders, Piece, Refused, Urgency, Want},
    job::Budget,
    lane::Lane,
    likeness::{Likenesses, Making},
    readahead::Readahead,
    recorder::{Launch, Recorder},
    source::{FileContent, Source, SourceError, Surroundings},
    tally::{Counts, Tally},
};
use crate::{
    blob::{Blob, GROUP, Groups, ranges},
    store::WriteStore,
    tree::Snapshot,
    types::{Digest, Name, PathKey, WorkspaceId},
};

/// How often content that turns out damaged, or is evicted as soon as it is here, is fetched again for one read.
const ATTEMPTS: usize = 3;

/// Bytes that all workspaces together may have queued or under way ahead of their readers.
const READAHEAD_BUDGET: u64 = 64 << 20;

/// Groups of the window around a missing part of a mapped file (512 KiB): some 4 ms of a gigabit link.
const WINDOW: u64 = 32;

/// Workspaces that are remembered while nothing of theirs is under way.
const LANES: usize = 1024;

/// How content is fetched.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// How long one read may wait before it fails.
    pub deadline: Duration,
    /// Files up to this many bytes, programs' libraries mostly, are mapped and touched all over: around a part that has
    /// to be fetched, the rest of its window comes along. In larger ones a random read would bring much that nobody needs.
    pub mapped: u64,
}

/// Content from the store, and into it from whoever holds it.
pub struct Fetcher {
    store: Arc<dyn WriteStore>,
    holders: Arc<dyn Holders>,
    options: FetchOptions,
    lanes: Mutex<HashMap<WorkspaceId, Arc<Lane>>>,
    readahead: Mutex<Readahead>,
    ahead: Arc<Budget>,
    likenesses: Arc<Likenesses>,
    tally: Arc<Tally>,
    recorder: Recorder,
}

impl Fetcher {
    /// A fetcher into `store`, and the launches that it sees. Its futures must be polled within a tokio runtime.
    pub fn new(
        store: Arc<dyn WriteStore>,
        holders: Arc<dyn Holders>,
        options: FetchOptions,
    ) -> (Self, mpsc::UnboundedReceiver<Launch>) {
        let (lanes, readahead) = (Mutex::default(), Mutex::new(Readahead::new()));
        let (ahead, tally) = (Budget::new(READAHEAD_BUDGET), Arc::default());
        let likenesses = Arc::new(Likenesses::new(store.clone(), holders.clone()));
        let (recorder, launches) = Recorder::new();
        (Self { store, holders, options, lanes, readahead, ahead, likenesses, tally, recorder }, launches)
    }

    /// Who notes what launches read.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// What was read and fetched since the start.
    pub fn counts(&self) -> Counts {
        self.tally.counts()
    }

    pub(super) fn store(&self) -> &dyn WriteStore {
        &*self.store
    }

    pub(super) fn lane(&self, workspace: &WorkspaceId) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= LANES && !lanes.contains_key(workspace) {
            // A lane with something under way is held by its requests.
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        let new = || {
            let (store, holders) = (self.store.clone(), self.holders.clone());
            let (ahead, likenesses) = (self.ahead.clone(), self.likenesses.clone());
            let (deadline, tally) = (self.options.deadline, self.tally.clone());
            Arc::new(Lane::new(*workspace, store, holders, deadline, ahead, likenesses, tally))
        };
        lanes.entry(*workspace).or_insert_with(new).clone()
    }

    /// Whether something is queued, under way, or not put yet.
    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.values().any(|lane| lane.is_busy())
    }

    async fn within<T>(
        &self,
        workspace: &WorkspaceId,
        fetch: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let result = tokio::time::timeout(self.options.deadline, fetch).await;
        result.unwrap_or_else(|_| {
            self.lane(workspace).note_late();
            Err(SourceError::TimedOut)
        })
    }

    async fn fetch_tree(&self, workspace: &WorkspaceId, digest: &Digest) -> Result<Bytes, SourceError> {
        for _ in 0..ATTEMPTS {
            let mut anew = false;
            match self.store.tree(digest) {
                Ok(Some(object)) => return Ok(object),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a stored folder can't be read");
                    anew = true;
                }
            }
            let pieces = self.lane(workspace).whole(Want::Tree(*digest), anew).wait().await?;
            if let Some(Piece::Tree { object, .. }) = pieces.first().map(|piece| &**piece) {
                return Ok(object.clone());
            }
        }
        Err(SourceError::Failed("the folder can't be kept".into()))
    }

    async fn read_blob(
        &self,
        workspace: &WorkspaceId,
        blob: &Blob,
        offset: u64,
        length: u32,
        around: &dyn Surroundings,
    ) -> Result<Bytes, SourceError> {
        let end = offset.checked_add(length.into()).filter(|end| *end <= blob.size);
        let Some(end) = end else {
            return Err(SourceError::Failed("a read beyond the end of the content".into()));
        };
        self.recorder.note(workspace, blob, Groups::from(blob.touched(offset, end)), around);
        let mut buffer = BytesMut::zeroed(length as usize);
        for attempt in 0..ATTEMPTS {
            let mut anew = false;
            let held = self.store.read_at(blob, offset, &mut buffer);
            if attempt == 0 {
                self.tally.read(matches!(held, Ok(true)));
            }
            match held {
                Ok(true) => {
                    self.read_ahead(workspace, blob, offset, end, around);
                    return Ok(buffer.freeze());
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "stored content can't be read");
                    anew = true;
                }
            }
            let touched = blob.touched(offset, end);
            let likeness = self.likenesses.of(workspace, blob, || path_key(around));
            let making = likeness.map(|likeness| likeness.under_way(&touched)).unwrap_or_default();
            if attempt == 0 && !making.is_empty() {
                self.read_ahead(workspace, blob, offset, end, around);
                making.wait_a_little().await;
                continue;
            }
            let lane = self.lane(workspace);
            let ticket = if blob.is_whole() {
                lane.whole(Want::Blob(*blob), anew)
            } else {
                lane.slice(*blob, touched.clone(), anew)
            };
            // Asked for after the demand, so that it doesn't come before it. Whoever foresaw the demand has also foreseen
            // what lies around it.
            if !blob.is_whole() {
                self.read_ahead(workspace, blob, offset, end, around);
            }
            if ticket.is_new() {
                self.bring_along(&lane, blob, touched, around);
            }
            let pieces = ticket.wait().await?;
            if self.assemble(blob, offset, &pieces, &mut buffer) {
                return Ok(buffer.freeze());
            }
        }
        Err(SourceError::Failed("the content can't be kept".into()))
    }

    /// Fetches what a program will probably read soon that had to wait for some groups of a file.
    fn bring_along(&self, lane: &Arc<Lane>, blob: &Blob, touched: Range<u64>, around: &dyn Surroundings) {
        let is_large = !blob.is_whole();
        if is_large && blob.size <= self.options.mapped && !self.readahead().skims() {
            let first = touched.start / WINDOW * WINDOW;
            let last = touched.end.next_multiple_of(WINDOW).min(blob.groups());
            lane.read_ahead(*blob, first..last);
        }
        lane.along(around.nearby().into_iter().map(Want::Blob));
    }

    /// Fills `buffer` with the blob's bytes from `offset`, out of what came and else out of the store; false when some
    /// of them are in neither.
    fn assemble(&self, blob: &Blob, offset: u64, pieces: &[Arc<Piece>], buffer: &mut [u8]) -> bool {
        let end = offset + buffer.len() as u64;
        blob.touched(offset, end).all(|group| {
            let start = group * GROUP;
            let (from, to) = (offset.max(start), end.min(start + GROUP));
            let target = &mut buffer[(from - offset) as usize..(to - offset) as usize];
            let came = pieces.iter().find_map(|piece| match &**piece {
                Piece::Blob(whole) if whole.bytes().len() as u64 == blob.size => {
                    whole.bytes().get(from as usize..to as usize)
                }
                Piece::Slice(slice) if slice.blob() == *blob => {
                    let position = group.checked_sub(slice.groups().start)?;
                    let leaf = slice.leaves().get(position as usize)?;
                    leaf.get((from - start) as usize..(to - start) as usize)
                }
                _ => None,
            });
            match came {
                Some(bytes) => {
                    target.copy_from_slice(bytes);
                    true
                }
                None => self.store.read_at(blob, from, target).unwrap_or(false),
            }
        })
    }

    /// Sets out to make some groups out of what was at the path before, and gives what to wait for; nothing where nothing
    /// is known of that.
    pub(super) fn make(
        &self,
        workspace: &WorkspaceId,
        blob: &Blob,
        groups: &Range<u64>,
        path: impl FnOnce() -> Option<PathKey>,
    ) -> Making {
        let likeness = self.likenesses.of(workspace, blob, path);
        likeness.map(|likeness| self.likenesses.begin(&likeness, groups)).unwrap_or_default()
    }

    fn readahead(&self) -> MutexGuard<'_, Readahead> {
        self.readahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_ahead(
        &self,
        workspace: &WorkspaceId,
        blob: &Blob,
        start: u64,
        end: u64,
        around: &dyn Surroundings,
    ) {
        if blob.is_whole() {
            return;
        }
        let wanted = self.readahead().note(blob.digest, blob.size, start..end);
        let Some(wanted) = wanted else { return };
        // What the demand fetches is not asked for again: it's under way already.
        let groups = wanted.start / GROUP..wanted.end.div_ceil(GROUP);
        let making = self.make(workspace, blob, &groups, || path_key(around));
        let (lane, blob) = (self.lane(workspace), *blob);
        if making.is_empty() {
            lane.read_ahead(blob, groups);
        } else {
            tokio::spawn(async move {
                making.wait().await;
                lane.read_ahead(blob, groups);
            });
        }
    }

    async fn read_pending(
        &self,
        workspace: &WorkspaceId,
        path: &[Name],
        token: u64,
        offset: u64,
        length: u32,
    ) -> Result<Bytes, SourceError> {
        let want = [Want::Pending { path: path.to_vec(), token, offset, length }];
        let mut last = Err(SourceError::TimedOut);
        for holder in self.holders.holders(workspace) {
            let mut answer = None;
            let mut sink = |_: usize, piece: Result<Piece, Refused>| match piece {
                Ok(Piece::Pending(bytes)) => answer = Some(Ok(bytes)),
                Ok(_) => {}
                Err(why) => answer = Some(Err(why.into())),
            };
            let result = holder.fetch(workspace, &want, Urgency { awaited: 1, bulk: false }, &mut sink).await;
            if let Err(error) = &result {
                tracing::debug!(%error, "reading a pending file failed");
            }
            last = match (answer, result) {
                (Some(Ok(bytes)), _) if bytes.len() == length as usize => return Ok(bytes),
                (Some(Err(error)), _) => Err(error),
                (None, Err(error)) => Err(error.into()),
                (Some(Ok(_)), _) | (None, Ok(())) => {
                    Err(SourceError::Failed("the owner sent something else than was asked for".into()))
                }
            };
        }
        last
    }
}

impl Fetcher {
    /// Returns when some groups of a file that is being read here are held, or when they won't be soon: fetches them,
    /// as they'd be fetched ahead of the reader, if nobody has yet. What isn't read here is not fetched for others.
    pub async fn bring(&self, workspace: &WorkspaceId, blob: &Blob, groups: Range<u64>) {
        let is_read = self.readahead().knows(&blob.digest);
        if is_read {
            self.lane(workspace).bring(*blob, groups).await;
        }
    }
}

fn path_key(around: &dyn Surroundings) -> Option<PathKey> {
    around.path().map(|path| PathKey::of(&path))
}

impl Source for Fetcher {
    fn tree<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        self.within(workspace, self.fetch_tree(workspace, digest)).boxed()
    }

    fn folders_ahead(&self, workspace: &WorkspaceId, folders: Vec<Digest>) {
        if !folders.is_empty() {
            self.lane(workspace).along(folders.into_iter().map(Want::Tree));
        }
    }

    fn read<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        content: &'a FileContent,
        offset: u64,
        length: u32,
        around: &'a dyn Surroundings,
    ) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        match content {
            FileContent::Blob(blob) => {
                self.within(workspace, self.read_blob(workspace, blob, offset, length, around)).boxed()
            }
            FileContent::Pending { path, token } => {
                self.within(workspace, self.read_pending(workspace, path, *token, offset, length)).boxed()
            }
        }
    }

    fn snapshots<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, SourceError>> {
        Box::pin(async move {
            let asked = tokio::time::timeout(self.options.deadline, self.holders.snapshots(workspace)).await;
            Ok(asked.map_err(|_| SourceError::TimedOut)??)
        })
    }

    fn held(&self, blob: &Blob) -> u64 {
        // What can't be read isn't here.
        let held = self.store.held(blob).unwrap_or_default();
        ranges(&held)
            .map(|groups| (groups.end * GROUP).min(blob.size).saturating_sub(groups.start * GROUP))
            .sum()
    }

    fn knock(&self, workspace: &WorkspaceId) {
        self.holders.knock(workspace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fetch::Holder, store::MemoryStore};

    struct Nobody;

    impl Holders for Nobody {
        fn holders(&self, _: &WorkspaceId) -> Vec<Arc<dyn Holder>> {
            Vec::new()
        }

        fn knock(&self, _: &WorkspaceId) {}
    }

    #[tokio::test]
    async fn idle_lanes_are_dropped() {
        let options = FetchOptions { deadline: Duration::from_secs(10), mapped: 0 };
        let (fetcher, _) = Fetcher::new(Arc::new(MemoryStore::new()), Arc::new(Nobody), options);
        let workspace = |number: u128| WorkspaceId::from_bytes(number.to_le_bytes());
        let busy = fetcher.lane(&workspace(0));
        for number in 1..3 * LANES as u128 {
            fetcher.lane(&workspace(number));
        }
        assert!(fetcher.lanes.lock().unwrap().len() <= LANES);
        assert!(Arc::ptr_eq(&busy, &fetcher.lane(&workspace(0))), "one that is used stays");
    }
}
