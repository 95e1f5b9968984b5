//! Fetching whole trees: for pins, and when somebody asks for it before they need it.

use std::{collections::HashSet, mem, ops::Range};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

use super::{
    fetcher::Fetcher,
    folders::Folders,
    likeness::{LEAST, Making},
    source::{Source, SourceError},
};
use crate::{
    blob::{Blob, GROUP, Groups},
    store::StoreError,
    tree::{Content, Entry, Kind, Page, Totals, decode},
    types::{Digest, Name, PathKey, WorkspaceId},
};

/// Groups that are asked for together (4 MiB) …
const WINDOW: u64 = 256;

/// … files …
const WINDOW_FILES: usize = 512;

/// … and how many such windows are under way at a time: the link stays busy while one is put.
const WINDOWS: usize = 3;

/// Folders of one tree: more are a mistake or an attack.
const MAX_FOLDERS: usize = 2 << 20;

/// Why a tree can't be had as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BulkError {
    /// There's nothing of this name.
    #[error("there's no '{0}' in it")]
    Missing(Name),
    /// It doesn't fit into the cache.
    #[error("it doesn't fit into the cache beside what is pinned")]
    Full,
    /// The content can't be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store doesn't do what it should.
    #[error("{0}")]
    Store(String),
}

impl From<StoreError> for BulkError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::Full,
            error => Self::Store(error.to_string()),
        }
    }
}

/// How far fetching a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What there is.
    pub total: Totals,
    /// What is here.
    pub here: Totals,
    /// Files, or parts of large ones, that couldn't be had: their content has changed, or their owner can't read it.
    pub failed: u64,
    /// Files that their owner hasn't hashed yet.
    pub pending: u64,
}

/// Follows the fetching of a tree.
pub trait Observer: Sync {
    /// Content of these digests belongs to the tree: told before it's fetched.
    fn found(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// It has come this far.
    fn reached(&self, progress: Progress);
}

/// A part of a file's content.
struct Part {
    blob: Blob,
    groups: Range<u64>,
    path: Option<PathKey>,
    /// Whether the file is here with it.
    last: bool,
}

impl Part {
    fn bytes(&self) -> u64 {
        (self.groups.end * GROUP).min(self.blob.size) - self.groups.start * GROUP
    }
}

type Window = Vec<Part>;

/// The parts of a window, and how it went with each.
type Ended = Vec<(Part, Result<(), BulkError>)>;

impl Fetcher {
    /// Fetches what isn't held of a path in a snapshot, its folders and all below it, behind whatever somebody waits for.
    ///
    /// Dropping the future stops it; what came stays. A file that can't be had alone is counted, not an error.
    pub async fn complete(
        &self,
        workspace: &WorkspaceId,
        (root, total): (Digest, Totals),
        path: &[Name],
        observer: &dyn Observer,
    ) -> Result<Progress, BulkError> {
        let progress = Progress { total, ..Progress::default() };
        let mut walk = Walk {
            fetcher: self,
            workspace,
            observer,
            found: Vec::new(),
            seen: HashSet::new(),
            folders: Vec::new(),
            window: Vec::new(),
            window_groups: 0,
            under_way: FuturesUnordered::new(),
            progress,
        };
        let mut folders = Folders::new(self, workspace);
        let kind = folders.kind(Kind::Folder { tree: root, totals: total }, path).await?;
        walk.found.extend(folders.digests());
        walk.progress.total = kind.totals();
        walk.take(kind, || Some(path.to_vec())).await?;
        while let Some(folder) = walk.folders.pop() {
            for Entry { name, kind, .. } in walk.page(&folder).await? {
                walk.take(kind, || below(folder.path.as_ref(), &name)).await?;
            }
        }
        walk.flush().await?;
        while let Some(ended) = walk.under_way.next().await {
            walk.count(ended)?;
        }
        Ok(walk.progress)
    }

    /// Fetches what isn't held of some parts, and tells of each how it went.
    async fn parts(&self, workspace: &WorkspaceId, window: Window) -> Ended {
        let lane = self.lane(workspace);
        let mut making = Making::default();
        for Part { blob, groups, path, .. } in &window {
            making.extend(self.make(workspace, blob, groups, || *path));
        }
        making.wait().await;
        let queued: Vec<_> = window
            .into_iter()
            .map(|part| {
                let ticket = lane.bulk(part.blob, part.groups.clone());
                (part, ticket)
            })
            .collect();
        let mut ended = Vec::with_capacity(queued.len());
        for (part, ticket) in queued {
            let result = match ticket.wait_until_put().await {
                Ok(_) => self.is_kept(&part),
                Err(error) => Err(error.into()),
            };
            ended.push((part, result));
        }
        ended
    }

    /// What came but couldn't be kept isn't here.
    fn is_kept(&self, part: &Part) -> Result<(), BulkError> {
        let held = self.store().held(&part.blob)?;
        match held.is_superset(&Groups::from(part.groups.clone())) {
            true => Ok(()),
            false => Err(BulkError::Full),
        }
    }
}

/// A folder, or a page of one, that is still to be looked through.
struct Folder {
    tree: Digest,
    path: Option<Path>,
}

/// The names from the workspace's root to something, if they aren't too many.
type Path = Vec<Name>;

/// So deep a path is known; a hostile tree can be deeper than anybody's memory.
const DEPTH: usize = 256;

fn below(folder: Option<&Path>, name: &Name) -> Option<Path> {
    let folder = folder.filter(|path| path.len() < DEPTH)?;
    Some(folder.iter().chain([name]).cloned().collect())
}

struct Walk<'a> {
    fetcher: &'a Fetcher,
    workspace: &'a WorkspaceId,
    observer: &'a dyn Observer,
    /// What the observer hasn't been told yet.
    found: Vec<Digest>,
    /// Folders that were met: a tree may hold the same one any number of times.
    seen: HashSet<Digest>,
    /// Those of them that are still to be looked through.
    folders: Vec<Folder>,
    window: Window,
    window_groups: u64,
    under_way: FuturesUnordered<BoxFuture<'a, Ended>>,
    progress: Progress,
}

impl Walk<'_> {
    async fn object(&mut self, digest: &Digest) -> Result<Page, BulkError> {
        let object = self.fetcher.tree(self.workspace, digest).await?;
        self.found.push(*digest);
        decode(&object).map_err(|error| SourceError::Failed(error.to_string()).into())
    }

    /// The entries of a folder or of one of its pages; of a folder of several pages, those are queued.
    async fn page(&mut self, folder: &Folder) -> Result<Vec<Entry>, BulkError> {
        match self.object(&folder.tree).await? {
            Page::Leaf(entries) => Ok(entries),
            Page::Index(pages) => {
                for page in pages {
                    self.queue(Folder { tree: page.digest, path: folder.path.clone() })?;
                }
                Ok(Vec::new())
            }
        }
    }

    fn queue(&mut self, folder: Folder) -> Result<(), BulkError> {
        if self.seen.len() >= MAX_FOLDERS {
            return Err(SourceError::Failed("it has more folders than can be".into()).into());
        }
        if self.seen.insert(folder.tree) {
            self.folders.push(folder);
        }
        Ok(())
    }

    async fn take(&mut self, kind: Kind, path: impl FnOnce() -> Option<Path>) -> Result<(), BulkError> {
        match kind {
            Kind::Folder { tree, .. } => self.queue(Folder { tree, path: path() })?,
            Kind::Link(_) => self.progress.here.files += 1,
            Kind::File { content: Content::Pending, .. } => self.progress.pending += 1,
            Kind::File { size, content: Content::Blob(digest) } => {
                self.add(Blob { digest, size }, path).await?;
            }
            Kind::File { size: whole, content: Content::Sparse { blob, extents } } => {
                let size = extents.iter().map(|extent| extent.length).sum();
                // There's nothing to fetch of the holes.
                self.progress.here.bytes += whole - size;
                self.add(Blob { digest: blob, size }, path).await?;
            }
        }
        Ok(())
    }

    async fn add(&mut self, blob: Blob, path: impl FnOnce() -> Option<Path>) -> Result<(), BulkError> {
        if blob.size == 0 {
            self.progress.here.files += 1;
            return Ok(());
        }
        self.found.push(blob.digest);
        let path = if blob.size < LEAST { None } else { path().as_ref().map(PathKey::of) };
        let (mut start, end) = (0, blob.groups());
        while start < end {
            let stop = end.min(start + WINDOW - self.window_groups);
            self.window.push(Part { blob, groups: start..stop, path, last: stop == end });
            self.window_groups += stop - start;
            start = stop;
            if self.window_groups >= WINDOW || self.window.len() >= WINDOW_FILES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Sets out for the window's parts.
    async fn flush(&mut self) -> Result<(), BulkError> {
        self.observer.found(mem::take(&mut self.found)).await?;
        while self.under_way.len() >= WINDOWS
            && let Some(ended) = self.under_way.next().await
        {
            self.count(ended)?;
        }
        let window = mem::take(&mut self.window);
        self.window_groups = 0;
        self.under_way.push(Box::pin(self.fetcher.parts(self.workspace, window)));
        Ok(())
    }

    fn count(&mut self, ended: Ended) -> Result<(), BulkError> {
        for (part, result) in ended {
            match result {
                Ok(()) => {
                    self.progress.here.add(Totals { files: part.last.into(), bytes: part.bytes() });
                }
                // Others may well be had.
                Err(BulkError::Source(SourceError::Changed | SourceError::Failed(_))) => {
                    self.progress.failed += 1;
                }
                Err(error) => return Err(error),
            }
        }
        self.observer.reached(self.progress);
        Ok(())
    }
}
