//! The filesystem without a kernel: hosts, workspaces and their files as inodes, over a source of content.
//!
//! Every call is a future that is ready at once when what it needs is local, so that an adapter can poll it on its own
//! thread and hand only what waits for the network to somebody else. No lock is held across a wait.
//!
//! A node is a path *and* a version: a file that changes at its owner gets another number, as after an atomic replace, and
//! whoever holds the old number goes on reading the old content. Folders keep their number and change their content.

mod attributes;
mod change;
mod folder;
mod layered;
mod links;
mod listing;
mod merge;
mod node;
mod refresh;
mod scan;
mod snapshots;

#[cfg(test)]
mod tests;

pub use crate::layer::FileKind;
pub use attributes::Attr;
pub use change::{Allocate, Maker, New, Rename, Set};
pub use folder::Cookie;
pub use listing::{HostListing, HostState, Listing, Mounted, Place};
pub use merge::{Conflict, ConflictKind, Difference, DifferenceKind, Pushed};
pub use node::Ino;
pub use refresh::{Invalidation, LANES, NotTaken, Notice};

use std::{
    collections::HashMap,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt, poll, stream};

use crate::{
    blob::{Blob, WHOLE_MAX},
    fetch::{FileContent, Source, SourceError, Surroundings},
    layer::{LayerError, Layers, RecordKind},
    tree::{Content, Entry, Extent, Kind, Page},
    types::{Digest, Name, NameError, WorkspaceId},
};
use folder::{Folder, FolderCache};
use node::{Node, NodeKind, Remote, Table};
use scan::Scans;
use snapshots::Snapshots;

/// Extended attributes that begin so are the view's own.
const OWN_ATTRIBUTES: &[u8] = b"user.twinshare.";

/// The folder of the mount that links leaving their workspace are shown to point into.
pub const OUTSIDE: &str = ".outside";

/// Files up to this many bytes are fetched along with a file of their folder …
const SIBLING: u64 = 64 << 10;

/// … and so many bytes of them at a time: some 4 ms of a gigabit link, and less when they can be compressed.
const SIBLINGS: u64 = 512 << 10;

/// A folder of more entries is refused: it would take more than a gigabyte to hold.
const MAX_FOLDER: u64 = 2_000_000;

/// Pages of one folder that are asked for at a time.
const PAGES_AT_A_TIME: usize = 64;

/// Why a call on the view fails. The kernel adapter turns each into one errno.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// There is no such name.
    #[error("there is no such file")]
    NotFound,
    /// The number isn't one that was looked up and not yet forgotten.
    #[error("unknown inode {0}")]
    UnknownInode(u64),
    /// A file where a folder is needed.
    #[error("not a folder")]
    NotFolder,
    /// A folder where a file is needed.
    #[error("is a folder")]
    IsFolder,
    /// The call makes no sense for this kind of file.
    #[error("not possible for this kind of file")]
    WrongKind,
    /// There is no such extended attribute.
    #[error("there is no such attribute")]
    NoAttribute,
    /// The view can't be written to.
    #[error("the view is read-only")]
    ReadOnly,
    /// There is such a name already.
    #[error("there is such a file already")]
    Exists,
    /// The folder still holds something.
    #[error("the folder isn't empty")]
    NotEmpty,
    /// No file can have this name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// What one workspace has can't be moved into another.
    #[error("it belongs to another workspace")]
    Elsewhere,
    /// A file can't have more names.
    #[error("the file has too many names")]
    TooManyLinks,
    /// A file can't be that large.
    #[error("the file would be too large")]
    TooLarge,
    /// There is no room for it.
    #[error("there is no room for it")]
    NoSpace,
    /// It may not be done.
    #[error("not permitted")]
    NotPermitted,
    /// The view doesn't know how to do that.
    #[error("not supported")]
    NotSupported,
    /// The content couldn't be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The change couldn't be kept.
    #[error("{why}")]
    Layer {
        /// Why not.
        why: String,
        /// What the system calls that, if it was the disk.
        code: Option<i32>,
    },
}

impl From<LayerError> for ViewError {
    fn from(error: LayerError) -> Self {
        let code = match &error {
            LayerError::Io(error) => error.raw_os_error(),
            // It was there when it was looked up, and was discarded since.
            LayerError::Unknown(number) => return Self::UnknownInode(*number),
            LayerError::Damaged(_) => None,
        };
        Self::Layer { why: error.to_string(), code }
    }
}

type Result<T> = std::result::Result<T, ViewError>;

/// How the view presents itself.
#[derive(Clone)]
pub struct ViewOptions {
    /// Where the view is mounted: shown links that leave their workspace start with it.
    pub mount: PathBuf,
    /// The user whom the sharer's files belong to here.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// How long a folder may take to come here.
    pub deadline: Duration,
    /// Where changes are kept; without it there can be none.
    pub layers: Option<Arc<Layers>>,
}

/// Sums for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes of all workspaces in the view, as their snapshots state them, and of the disk that changes are kept on.
    pub bytes: u64,
    /// Files of all workspaces in the view, and of that disk.
    pub files: u64,
    /// Bytes that can still be written.
    pub free: u64,
    /// Files that can still be made.
    pub free_files: u64,
}

/// What somebody reads for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// To see the content, or to have it mapped.
    ToSee,
    /// To execute the file.
    ToExecute,
}

/// The filesystem.
pub struct View {
    options: ViewOptions,
    source: Arc<dyn Source>,
    listing: RwLock<Arc<Listing>>,
    table: Mutex<Table>,
    folders: FolderCache,
    scans: Scans,
    snapshots: Snapshots,
    /// Held while a new listing is taken over: one at a time.
    refreshing: tokio::sync::Mutex<()>,
    invalidations: tokio::sync::mpsc::UnboundedSender<Invalidation>,
    /// Of the workspaces that have changed since they appeared: the snapshot that the kernel has been told of.
    told: Mutex<HashMap<WorkspaceId, Option<Digest>>>,
}

/// A folder that is being listed.
struct Listed<'a> {
    ino: Ino,
    node: &'a Node,
    generation: u64,
    look_up: bool,
}

/// How the listing of some children went.
enum Step {
    /// The caller wants no more.
    Full,
    /// All were listed.
    Through,
    /// The folder has changed on the way: the rest must be taken from its new content.
    Changed,
}

/// A file and where it stands.
struct Around<'a> {
    view: &'a View,
    node: &'a Node,
    why: Reading,
}

impl Surroundings for Around<'_> {
    fn path(&self) -> Option<Vec<Name>> {
        self.view.path(self.node)
    }

    fn is_program(&self) -> bool {
        // An environment's interpreter is the machine's own: what it reads of the environment first is this.
        self.why == Reading::ToExecute || self.node.kind.name() == b"pyvenv.cfg"
    }

    fn nearby(&self) -> Vec<Blob> {
        let next = self.view.next_in_order(self.node);
        if next.is_empty() { self.view.siblings(self.node) } else { next }
    }
}

impl View {
    /// An empty view, and what the kernel must be told when it changes.
    pub fn new(
        options: ViewOptions,
        source: Arc<dyn Source>,
    ) -> (Self, tokio::sync::mpsc::UnboundedReceiver<Invalidation>) {
        let (invalidations, receiver) = tokio::sync::mpsc::unbounded_channel();
        let view = Self {
            table: Mutex::new(Table::new(options.layers.clone())),
            options,
            source,
            listing: RwLock::default(),
            folders: FolderCache::new(),
            scans: Scans::new(),
            snapshots: Snapshots::new(),
            refreshing: tokio::sync::Mutex::default(),
            invalidations,
            told: Mutex::default(),
        };
        (view, receiver)
    }

    /// What the view shows now.
    pub fn listing(&self) -> Arc<Listing> {
        self.listing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table's methods leave it consistent even if they panic, so a poisoned lock is still good.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, ino: Ino) -> Result<Arc<Node>> {
        self.table().get(ino).ok_or(ViewError::UnknownInode(ino.0))
    }

    /// A node, and the generation of the listing at that moment.
    fn node_now(&self, ino: Ino) -> Result<(Arc<Node>, u64)> {
        let table = self.table();
        Ok((table.get(ino).ok_or(ViewError::UnknownInode(ino.0))?, table.generation()))
    }

    /// Finds `name` in the folder `parent` and counts one look-up of what it finds.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        if let Err(error @ NameError::TooLong(_)) = Name::check(name) {
            return Err(error.into());
        }
        loop {
            let (folder, generation) = self.node_now(parent)?;
            let kind = self.child(&folder, name).await?;
            let mut table = self.table();
            // If the folder changed while its content was loaded, what was found may be old.
            if table.is_current(parent, &folder, generation) {
                let (ino, node) = table.enter(parent, kind);
                drop(table);
                return Ok(self.attr(ino, &node));
            }
        }
    }

    async fn child(&self, parent: &Node, name: &[u8]) -> Result<NodeKind> {
        match &parent.kind {
            NodeKind::Remote(remote) => {
                let folder = self.remote_folder(parent, remote).await?;
                let entry = folder.find(name).ok_or(ViewError::NotFound)?;
                Ok(NodeKind::Remote(remote.child(entry)))
            }
            NodeKind::Layered(layered) => self.layered_child(layered, name).await,
            NodeKind::Host(host) if name.contains(&b'@') => self.snapshot(host, name).await,
            kind => self
                .virtual_children(kind)?
                .into_iter()
                .find(|child| child.name() == name)
                .ok_or(ViewError::NotFound),
        }
    }

    /// Takes back `count` look-ups of `ino`; a node without any is dropped.
    pub fn forget(&self, ino: Ino, count: u64) {
        if let Some(node) = self.table().forget(ino, count) {
            self.forgotten(&node);
        }
    }

    /// What `stat` tells of `ino`.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        Ok(self.attr(ino, &*self.node(ino)?))
    }

    /// The target of the link `ino`, as the mount shows it.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        self.shown_target(&node).ok_or(ViewError::WrongKind)
    }

    /// Calls `add` for the entries of the folder `ino` after `cookie`, until it returns true. An entry for which `add`
    /// returned false, when `look_up` is set, counts one look-up.
    pub async fn readdir(
        &self,
        ino: Ino,
        cookie: Cookie,
        look_up: bool,
        mut add: impl FnMut(Cookie, &[u8], Attr) -> bool,
    ) -> Result<()> {
        let node = self.node(ino)?;
        let dots = [(Cookie::DOT, &b"."[..], ino), (Cookie::DOT_DOT, &b".."[..], node.parent)];
        for (dot, name, target) in dots {
            if cookie < dot {
                let attr = self.getattr(target).or_else(|_| self.getattr(ino))?;
                if add(dot, name, attr) {
                    return Ok(());
                }
            }
        }
        let mut cookie = cookie;
        loop {
            let (node, generation) = self.node_now(ino)?;
            let parent = Listed { ino, node: &node, generation, look_up };
            let (listed, end) = match &node.kind {
                NodeKind::Remote(remote) => {
                    let folder = self.remote_folder(&node, remote).await?;
                    let children = folder
                        .after(cookie)
                        .map(|(next, entry)| (next, NodeKind::Remote(remote.child(entry))));
                    (self.list(&parent, children, &mut cookie, &mut add), None)
                }
                NodeKind::Layered(layered) => {
                    let lower = self.lower(layered).await?;
                    let (children, end) = layered.children(lower.as_ref(), cookie);
                    (self.list(&parent, children.into_iter(), &mut cookie, &mut add), end)
                }
                kind => {
                    let mut children: Vec<_> = self
                        .virtual_children(kind)?
                        .into_iter()
                        // The mount's own folder is found by name but not listed.
                        .filter(|child| !matches!(child, NodeKind::Outside))
                        .map(|child| (Cookie::of(child.name()), child))
                        .filter(|(next, _)| *next > cookie)
                        .collect();
                    children.sort_by_key(|(next, _)| *next);
                    (self.list(&parent, children.into_iter(), &mut cookie, &mut add), None)
                }
            };
            match listed {
                Step::Full => return Ok(()),
                Step::Through => match end {
                    Some(end) => cookie = end,
                    None => return Ok(()),
                },
                Step::Changed => {}
            }
        }
    }

    /// Offers children to `add` and moves `cookie` along.
    fn list(
        &self,
        parent: &Listed<'_>,
        children: impl Iterator<Item = (Cookie, NodeKind)>,
        cookie: &mut Cookie,
        add: &mut impl FnMut(Cookie, &[u8], Attr) -> bool,
    ) -> Step {
        for (next, kind) in children {
            let mut table = self.table();
            if !table.is_current(parent.ino, parent.node, parent.generation) {
                return Step::Changed;
            }
            // Counted before it's handed out, so that a refresh from now on knows that the kernel may know it.
            let (ino, node) =
                if parent.look_up { table.enter(parent.ino, kind) } else { table.preview(parent.ino, kind) };
            drop(table);
            if add(next, node.kind.name(), self.attr(ino, &node)) {
                if parent.look_up {
                    self.forget(ino, 1);
                }
                return Step::Full;
            }
            *cookie = next;
        }
        Step::Through
    }

    /// Up to `length` bytes of the file `ino` from `offset`; fewer only at its end.
    pub async fn read(&self, ino: Ino, offset: u64, length: u32, why: Reading) -> Result<Bytes> {
        let node = self.node(ino)?;
        match &node.kind {
            NodeKind::Remote(remote) => {
                let (workspace, entry) = (&remote.workspace.id, &remote.entry);
                self.read_version(&node, workspace, entry, offset, length, why).await
            }
            NodeKind::Layered(layered) => self.read_layered(&node, layered, offset, length, why).await,
            _ if node.is_folder() => Err(ViewError::IsFolder),
            _ => Err(ViewError::WrongKind),
        }
    }

    /// Reads one of the owner's files, in the version that `entry` says.
    async fn read_version(
        &self,
        node: &Node,
        workspace: &WorkspaceId,
        entry: &Entry,
        offset: u64,
        length: u32,
        why: Reading,
    ) -> Result<Bytes> {
        let (size, content) = match &entry.kind {
            Kind::File { size, content } => (size, content),
            Kind::Folder { .. } => return Err(ViewError::IsFolder),
            Kind::Link(_) => return Err(ViewError::WrongKind),
        };
        let end = size.min(&offset.saturating_add(length.into())).to_owned();
        if offset >= end {
            return Ok(Bytes::new());
        }
        let length = (end - offset) as u32;
        let around = Around { view: self, node, why };
        match content {
            Content::Blob(digest) => {
                let file = FileContent::Blob(Blob { digest: *digest, size: *size });
                Ok(self.source.read(workspace, &file, offset, length, &around).await?)
            }
            Content::Pending => {
                let path = self.path(node).ok_or(SourceError::Changed)?;
                let file = FileContent::Pending { path, token: entry.attributes.token };
                Ok(self.source.read(workspace, &file, offset, length, &around).await?)
            }
            Content::Sparse { blob, extents } => {
                let size = extents.iter().map(|extent| extent.length).sum();
                let file = FileContent::Blob(Blob { digest: *blob, size });
                self.read_sparse(workspace, &file, extents, offset, length, &around).await
            }
        }
    }

    /// The folder that a node stands in, if it's in memory.
    fn folder_around(&self, node: &Node) -> Option<Arc<Folder>> {
        let parent = self.table().get(node.parent)?;
        match &parent.kind {
            NodeKind::Remote(Remote { entry, .. }) => match &entry.kind {
                Kind::Folder { tree, .. } => self.folders.get(tree),
                Kind::File { .. } | Kind::Link(_) => None,
            },
            NodeKind::Layered(layered) => self.lower(layered).now_or_never()?.ok()?.map(|(_, folder)| folder),
            _ => None,
        }
    }

    /// Small files of the same folder, which are cheaper to fetch along than one by one: who reads one of them mostly reads
    /// others, as an interpreter that imports a package.
    fn siblings(&self, node: &Node) -> Vec<Blob> {
        let is_small = matches!(&node.kind, NodeKind::Remote(Remote { entry, .. })
            if matches!(entry.kind, Kind::File { size, .. } if size <= WHOLE_MAX));
        if !is_small {
            return Vec::new();
        }
        let Some(folder) = self.folder_around(node) else { return Vec::new() };
        let small = folder.near(node.kind.name()).filter_map(|entry| match entry.kind {
            Kind::File { size, content: Content::Blob(digest) } if (1..=SIBLING).contains(&size) => {
                Some(Blob { digest, size })
            }
            _ => None,
        });
        let mut left = SIBLINGS;
        let fits = |blob: &Blob| {
            left = left.saturating_sub(blob.size);
            left > 0
        };
        small.take_while(fits).collect()
    }

    async fn read_sparse(
        &self,
        workspace: &WorkspaceId,
        file: &FileContent,
        extents: &[Extent],
        offset: u64,
        length: u32,
        around: &Around<'_>,
    ) -> Result<Bytes> {
        let end = offset + u64::from(length);
        let overlap = |extent: &Extent| {
            let (from, to) = (extent.offset.max(offset), (extent.offset + extent.length).min(end));
            (from < to).then_some((from, to))
        };
        let mut bytes = BytesMut::zeroed(length as usize);
        // Extents that touch each other's read lie side by side in the blob: one read brings them all.
        let first = extents.partition_point(|extent| extent.offset + extent.length <= offset);
        let touched: Vec<_> = extents[first..].iter().map_while(overlap).collect();
        let Some((start, _)) = touched.first() else { return Ok(bytes.freeze()) };
        let packed: u64 = extents[..first].iter().map(|extent| extent.length).sum();
        let at = packed + (start - extents[first].offset);
        let wanted: u64 = touched.iter().map(|(from, to)| to - from).sum();
        let mut data = self.source.read(workspace, file, at, wanted as u32, around).await?;
        if data.len() as u64 != wanted {
            return Err(SourceError::Failed("the content ended early".into()).into());
        }
        for (from, to) in touched {
            let piece = data.split_to((to - from) as usize);
            bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// Sums over all that the view shows.
    pub fn space(&self) -> Space {
        let listing = self.listing();
        let remote =
            listing.hosts.values().flat_map(|host| host.places.values()).filter_map(|place| match place {
                Place::Remote(mounted) => Some(mounted.totals),
                Place::Local(_) => None,
            });
        let mut totals = crate::tree::Totals::default();
        remote.for_each(|each| totals.add(each));
        // An answer without room would keep programs from writing.
        let disk = self.options.layers.as_ref().and_then(|layers| layers.space().ok());
        let (bytes, files) = disk.map_or((0, 0), |disk| (disk.bytes, disk.files));
        Space {
            bytes: totals.bytes.saturating_add(bytes),
            files: totals.files.saturating_add(files),
            free: disk.map_or(0, |disk| disk.free),
            free_files: disk.map_or(0, |disk| disk.free_files),
        }
    }

    /// What stands in a folder that is not a workspace's.
    fn virtual_children(&self, kind: &NodeKind) -> Result<Vec<NodeKind>> {
        let listing = self.listing();
        let children = match kind {
            NodeKind::Root => {
                listing.hosts.keys().cloned().map(NodeKind::Host).chain([NodeKind::Outside]).collect()
            }
            NodeKind::Outside => listing.hosts.keys().cloned().map(NodeKind::OutsideHost).collect(),
            NodeKind::OutsideHost(_) => Vec::new(),
            NodeKind::Host(host) => {
                let Some(host) = listing.hosts.get(host) else { return Ok(Vec::new()) };
                host.places.iter().filter_map(|(workspace, place)| NodeKind::of(workspace, place)).collect()
            }
            NodeKind::Local(..) | NodeKind::Remote(_) | NodeKind::Layered(_) => {
                return Err(ViewError::NotFolder);
            }
        };
        Ok(children)
    }

    async fn remote_folder(&self, node: &Node, remote: &Remote) -> Result<Arc<Folder>> {
        let Kind::Folder { tree, .. } = &remote.entry.kind else { return Err(ViewError::NotFolder) };
        if !remote.workspace.is_allowed() {
            self.source.knock(&remote.workspace.id);
            return Err(SourceError::Denied.into());
        }
        Ok(self.folder(&remote.workspace.id, tree, Some(node)).await?)
    }

    /// A decoded folder, from memory, the store, or a peer. If it's the one of `node`, its neighbours may come along.
    async fn folder(
        &self,
        workspace: &WorkspaceId,
        digest: &Digest,
        node: Option<&Node>,
    ) -> std::result::Result<Arc<Folder>, SourceError> {
        if let Some(folder) = self.folders.get(digest) {
            return Ok(folder);
        }
        let mut loading = pin!(tokio::time::timeout(self.options.deadline, self.load(workspace, digest)));
        let loaded = match poll!(loading.as_mut()) {
            Poll::Ready(loaded) => loaded,
            Poll::Pending => {
                // Asked for after the folder itself, so that they don't come before it.
                if let Some((node, around)) = node.and_then(|node| Some((node, self.folder_around(node)?))) {
                    self.source.folders_ahead(workspace, around.lacks(node.kind.name()));
                }
                loading.await
            }
        };
        let folder = Arc::new(loaded.unwrap_or(Err(SourceError::TimedOut))?);
        self.folders.put(*digest, folder.clone());
        Ok(folder)
    }

    async fn load(
        &self,
        workspace: &WorkspaceId,
        digest: &Digest,
    ) -> std::result::Result<Folder, SourceError> {
        let wrong = |what: &str| SourceError::Failed(what.into());
        let mut entries = Vec::new();
        match self.page(workspace, digest).await? {
            Page::Leaf(all) => entries = all,
            Page::Index(index) => {
                if index.iter().map(|page| page.entries).sum::<u64>() > MAX_FOLDER {
                    return Err(wrong("a folder of too many entries"));
                }
                let mut pages = stream::iter(index)
                    .map(async |page| (self.page(workspace, &page.digest).await, page))
                    .buffered(PAGES_AT_A_TIME);
                while let Some((leaf, page)) = pages.next().await {
                    match leaf? {
                        Page::Leaf(leaf)
                            if leaf.len() as u64 == page.entries
                                && leaf.first().is_some_and(|entry| entry.name == page.first) =>
                        {
                            entries.extend(leaf);
                        }
                        _ => return Err(wrong("a page that isn't what its index says")),
                    }
                }
            }
        }
        Folder::new(entries).ok_or_else(|| wrong("pages out of order"))
    }

    async fn page(&self, workspace: &WorkspaceId, digest: &Digest) -> std::result::Result<Page, SourceError> {
        let object = self.source.tree(workspace, digest).await?;
        crate::tree::decode(&object).map_err(|error| SourceError::Failed(error.to_string()))
    }

    /// The owner's names from the workspace's root to `node`, if it's the owner's and all folders on the way are still known.
    fn path(&self, node: &Node) -> Option<Vec<Name>> {
        let table = self.table();
        let mut names = Vec::new();
        let mut above;
        let mut at = node;
        let mut path = loop {
            match &at.kind {
                // The folders below it are where the owner has them, wherever it was moved to.
                NodeKind::Layered(layered) => break layered.layer.origin_path(layered.number)?,
                NodeKind::Remote(remote) if remote.depth == 0 => break Vec::new(),
                NodeKind::Remote(remote) => names.push(remote.entry.name.clone()),
                _ => return None,
            }
            above = table.get(at.parent)?;
            at = &above;
        };
        path.extend(names.into_iter().rev());
        Some(path)
    }

    /// The names from the workspace's root in the mount to the folder of `node`.
    fn folder_path(&self, node: &Node) -> Option<Vec<Name>> {
        let table = self.table();
        let mut names = Vec::new();
        let mut number = match &node.kind {
            NodeKind::Layered(layered) => layered.layer.place(layered.number)?.0,
            _ => node.parent.0,
        };
        loop {
            let node = table.get(Ino(number))?;
            let (above, name) = match &node.kind {
                NodeKind::Remote(remote) if remote.depth == 0 => break,
                NodeKind::Remote(remote) => (node.parent.0, remote.entry.name.clone()),
                NodeKind::Layered(layered) => match layered.layer.place(layered.number) {
                    Some(place) => place,
                    None => break,
                },
                _ => return None,
            };
            names.push(name);
            number = above;
        }
        names.reverse();
        Some(names)
    }

    fn shown_target(&self, node: &Node) -> Option<Vec<u8>> {
        let (workspace, target) = match &node.kind {
            NodeKind::Local(_, path) => {
                return Some(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec());
            }
            NodeKind::Remote(Remote { workspace, entry, .. }) => match &entry.kind {
                Kind::Link(target) => (workspace, target.to_vec()),
                _ => return None,
            },
            NodeKind::Layered(layered) => {
                let record = layered.layer.record(layered.number)?;
                let RecordKind::Link(target) = record.kind else { return None };
                // What was made here means what it says here.
                if record.origin.is_none() {
                    return Some(target);
                }
                (&layered.workspace, target)
            }
            _ => return None,
        };
        let folder = self.folder_path(node).unwrap_or_default();
        let outside = self.options.mount.join(OUTSIDE).join(workspace.host.as_str());
        Some(links::shown(&target, &folder, &workspace.original, &outside))
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("mount", &self.options.mount).finish_non_exhaustive()
    }
}
