//! This node as an owner: what it shares, who may read it, and who asks to.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use twinshare::{
    api::{Decision, Happening},
    blob::{Blob, Groups, slices},
    peer::{
        self, Capability, Catalogue, ExpectedPieces, Grant, Head, Identity, NodeInfo, OwnerPath,
        PieceRequest, Refusal, ServeError, ServedWorkspace, SignedHead, WorkspaceInfo,
    },
    profile::{Profile, Touched},
    publish::{
        self, Access, EditError, History, Incoming, Keeping, LocalBlob, PublishError, Retention, Share,
        ShareOptions, Shares,
    },
    tree::{Edit, Snapshot},
    types::{Digest, HostName, Name, NodeId, PathKey, WorkspaceId, WorkspaceName},
};

use crate::{
    events::Events,
    files::{self, FileError},
    launches::Profiles,
    readers::Readers,
};

/// Peers that ask for access and are remembered: more can't be answered by a person anyway.
const MAX_REQUESTS: usize = 256;

/// Capabilities are given anew so often, in seconds …
const RENEWED: u64 = 60;

/// … and are valid for so long. Whoever judges one may know the owner's time only as of the last renewal, so that access
/// that was taken back ends after five minutes everywhere.
const VALID: u64 = 240;

/// Why a workspace can't be shared, or not any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SharingError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// What is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Book {
    shares: Vec<Shared>,
    /// What the owner decided, by workspace and node.
    #[serde(default)]
    decisions: BTreeMap<WorkspaceId, BTreeMap<NodeId, bool>>,
    /// Who may change a workspace.
    #[serde(default)]
    writers: BTreeMap<WorkspaceId, BTreeSet<NodeId>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shared {
    path: PathBuf,
    name: WorkspaceName,
    access: Access,
    #[serde(default)]
    retention: Retention,
}

/// How a folder is to be shared; what isn't said stays as it was.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) name: Option<WorkspaceName>,
    pub(crate) access: Option<Access>,
    /// Whether the content of snapshots is kept.
    pub(crate) keep: Option<bool>,
    /// How many snapshots are kept.
    pub(crate) snapshots: Option<u32>,
}

/// Who asked for what, and when first.
pub(crate) type Requests = BTreeMap<(WorkspaceId, NodeId), Asked>;

/// What a node waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Since when.
    pub(crate) at: Timestamp,
    /// Whether it wants to change the workspace; it may read it already.
    pub(crate) write: bool,
}

/// Who this node is.
pub(crate) struct Own {
    pub(crate) identity: Arc<Identity>,
    pub(crate) host: HostName,
    /// Where its share service listens.
    pub(crate) port: u16,
}

/// This node as an owner.
pub(crate) struct Sharing {
    own: Own,
    shares: Arc<Shares>,
    file: PathBuf,
    book: Mutex<Book>,
    requests: Mutex<Requests>,
    readers: Mutex<Readers>,
    profiles: Arc<Profiles>,
    history: Arc<History>,
    events: Arc<Events>,
    changed: watch::Sender<u64>,
    /// Itself, for what it hands out to be read from.
    this: Weak<Self>,
}

impl Sharing {
    /// Opens the book of what was shared before. [`Self::resume`] shares it again.
    pub(crate) fn open(
        state: &Path,
        own: Own,
        shares: Arc<Shares>,
        profiles: Arc<Profiles>,
        history: Arc<History>,
        events: Arc<Events>,
    ) -> Result<Arc<Self>, FileError> {
        let file = state.join("shares.json");
        let book = files::read_json(&file)?.unwrap_or_default();
        let sharing = Arc::new_cyclic(|this| Self {
            own,
            shares,
            file,
            book: Mutex::new(book),
            requests: Mutex::default(),
            readers: Mutex::new(Readers::new()),
            profiles,
            history,
            events,
            changed: watch::Sender::new(0),
            this: this.clone(),
        });
        let (mut heads, weak) = (sharing.shares.changes(), Arc::downgrade(&sharing));
        tokio::spawn(async move {
            while heads.changed().await.is_ok() {
                let Some(sharing) = weak.upgrade() else { return };
                sharing.notify();
            }
        });
        let (mut heads, weak) = (sharing.shares.changes(), Arc::downgrade(&sharing));
        tokio::spawn(async move {
            while heads.changed().await.is_ok() {
                let Some(sharing) = weak.upgrade() else { return };
                let noted = tokio::task::spawn_blocking(move || {
                    for share in sharing.list() {
                        if let Err(error) = sharing.keep(&share) {
                            let workspace = share.manifest().name.clone();
                            tracing::warn!(%error, %workspace, "a snapshot can't be kept");
                        }
                    }
                });
                if noted.await.is_err() {
                    tracing::error!("keeping a snapshot panicked");
                }
            }
        });
        Ok(sharing)
    }

    /// Shares again what was shared when the node last ran. What can't be is logged and stays in the book.
    ///
    /// Blocks for as long as listing the folders takes.
    pub(crate) fn resume(&self) {
        let shared = self.book().shares.clone();
        for Shared { path, access, retention, .. } in shared {
            if !self.is_booked(&path) {
                continue;
            }
            // Its manifest has its name, which the owner may have changed meanwhile.
            let options = ShareOptions { name: None, access, retention };
            match self.shares.add(&path, options) {
                // It was unshared while it was being listed.
                Ok(share) if !self.is_booked(&path) => {
                    if let Err(error) = self.shares.remove(&share.manifest().name) {
                        tracing::warn!(%error, path = %path.display(), "can't end the sharing of this folder");
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "can't share this folder again");
                }
            }
        }
    }

    fn is_booked(&self, path: &Path) -> bool {
        self.book().shares.iter().any(|shared| shared.path == path)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change is complete before anything can panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Keeps the newest snapshot of a share, as its owner wants it.
    ///
    /// Blocks for as long as it takes to copy what is new.
    fn keep(&self, share: &Share) -> Result<(), Box<dyn std::error::Error>> {
        let swept = self.history.note(share)?;
        if !share.retention().content {
            share.drop_content(&HashSet::new());
            return Ok(());
        }
        let Keeping { copied, missed } = share.keep_content()?;
        if copied + missed > 0 {
            tracing::info!(copied, missed, workspace = %share.manifest().name, "kept the content of a snapshot");
        }
        if swept {
            share.drop_content(&self.history.blobs(&share.id())?);
        }
        Ok(())
    }

    /// Everything that is shared.
    pub(crate) fn list(&self) -> Vec<Arc<Share>> {
        self.shares.list()
    }

    /// The share of this name.
    pub(crate) fn find(&self, name: &WorkspaceName) -> Option<Arc<Share>> {
        self.list().into_iter().find(|share| share.manifest().name == *name)
    }

    /// Shares a folder, from now on and after a restart. Blocks for as long as listing the folder takes.
    pub(crate) fn share(&self, path: &Path, options: Options) -> Result<Arc<Share>, SharingError> {
        let before = self.book().shares.iter().find(|shared| shared.path == path).cloned();
        let (access, retention) =
            before.map_or_else(Default::default, |before| (before.access, before.retention));
        let access = options.access.unwrap_or(access);
        let retention = Retention {
            snapshots: options.snapshots.unwrap_or(retention.snapshots),
            content: options.keep.unwrap_or(retention.content),
        };
        let share = self.shares.add(path, ShareOptions { name: options.name, access, retention })?;
        let (path, name) = (share.root_path().to_path_buf(), share.manifest().name.clone());
        let shared = Shared { path, name, access, retention };
        let mut book = self.book();
        book.shares.retain(|other| other.path != shared.path);
        book.shares.push(shared);
        files::write_json(&self.file, &*book)?;
        drop(book);
        self.notify();
        Ok(share)
    }

    /// Ends the sharing of a workspace, also of one that couldn't be shared again; its folder stays.
    ///
    /// [`PublishError::Unknown`] if there is none of this name.
    pub(crate) fn unshare(&self, name: &WorkspaceName) -> Result<(), SharingError> {
        let path = match self.find(name) {
            Some(share) => {
                self.shares.remove(name)?;
                self.profiles.forget(&share.id());
                share.drop_content(&HashSet::new());
                if let Err(error) = self.history.forget(&share.id()) {
                    tracing::warn!(%error, "the history of a workspace can't be forgotten");
                }
                // In the book it may have another name: that of when it was shared.
                share.root_path().to_path_buf()
            }
            None => {
                let live: BTreeSet<_> =
                    self.list().iter().map(|share| share.root_path().to_path_buf()).collect();
                let book = self.book();
                let mut lost = book.shares.iter().filter(|shared| !live.contains(&shared.path));
                lost.find(|shared| shared.name == *name)
                    .map(|shared| shared.path.clone())
                    .ok_or_else(|| PublishError::Unknown(name.clone()))?
            }
        };
        let mut book = self.book();
        book.shares.retain(|shared| shared.path != path);
        files::write_json(&self.file, &*book)?;
        drop(book);
        self.notify();
        Ok(())
    }

    /// Who waits for an answer.
    pub(crate) fn requests(&self) -> Requests {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts what a peer wants before the owner, unless it waits for an answer already.
    fn ask(&self, share: &Share, peer: NodeId, write: bool) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if note_request(&mut requests, (share.id(), peer), Asked { at: Timestamp::now(), write }) {
            let workspace = share.manifest().name.clone();
            tracing::info!(%peer, %workspace, write, "a peer asks for access");
            self.events.note(Happening::AccessRequested { workspace, peer, write });
        }
    }

    /// The owner's answer: kept.
    pub(crate) fn decide(
        &self,
        workspace: WorkspaceId,
        peer: NodeId,
        decision: Decision,
    ) -> Result<(), FileError> {
        let wants_to_write = self.requests().get(&(workspace, peer)).is_some_and(|asked| asked.write);
        let mut book = self.book();
        let writers = book.writers.entry(workspace).or_default();
        match decision {
            Decision::Write => writers.insert(peer),
            Decision::Allow | Decision::Deny => writers.remove(&peer),
        };
        // Who is denied to write may read as before.
        if !(decision == Decision::Deny && wants_to_write) {
            book.decisions.entry(workspace).or_default().insert(peer, decision != Decision::Deny);
        }
        files::write_json(&self.file, &*book)?;
        drop(book);
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).remove(&(workspace, peer));
        self.notify();
        Ok(())
    }

    /// Whether `reader` may read the workspace; none when nothing was decided.
    fn decision(&self, share: &Share, reader: Option<NodeId>) -> Option<bool> {
        let reader = reader?;
        self.book().decisions.get(&share.id())?.get(&reader).copied()
    }

    /// Whether `reader` may change the workspace.
    fn may_write(&self, share: &Share, reader: Option<NodeId>) -> bool {
        let is_writer =
            |reader| self.book().writers.get(&share.id()).is_some_and(|writers| writers.contains(&reader));
        self.may_read(share, reader) && reader.is_some_and(is_writer)
    }

    fn may_read(&self, share: &Share, reader: Option<NodeId>) -> bool {
        if reader == Some(self.own.identity.id()) {
            return true;
        }
        match share.access() {
            Access::Public => self.decision(share, reader).unwrap_or(true),
            Access::Ask | Access::Peers => self.decision(share, reader).unwrap_or(false),
        }
    }

    /// Whether `reader` may know that the workspace exists.
    fn may_know(&self, share: &Share, reader: Option<NodeId>) -> bool {
        match share.access() {
            Access::Public => true,
            Access::Ask => reader.is_some(),
            Access::Peers => self.may_read(share, reader),
        }
    }

    fn info(&self, share: &Share, reader: Option<NodeId>) -> Option<WorkspaceInfo> {
        if self.may_read(share, reader) { self.described(share) } else { self.hidden(share) }
    }

    /// What whoever may read the workspace is told.
    fn described(&self, share: &Share) -> Option<WorkspaceInfo> {
        let head = share.head();
        let manifest = share.manifest();
        let head = Head {
            workspace: share.id(),
            root: head.root,
            provisional: head.provisional,
            sequence: head.sequence,
            created: i64::try_from(head.created / 1000).unwrap_or(i64::MAX),
            mode: head.mode,
            modified: (head.modified.seconds, head.modified.nanoseconds),
            files: head.totals.files,
            bytes: head.totals.bytes,
        };
        Some(WorkspaceInfo {
            id: share.id(),
            name: manifest.name.clone(),
            description: manifest.description.clone().unwrap_or_default(),
            tags: manifest.tags.clone(),
            path: OwnerPath::new(share.root_path().as_os_str().as_encoded_bytes()).ok()?,
            head: SignedHead::sign(head, &self.own.identity),
            environments: manifest.environment_names().map(str::to_owned).collect(),
            access: access_of(share),
            allowed: true,
        })
    }

    /// What whoever may know of the workspace, but not read it, is told: its name, and nothing of what is in it.
    fn hidden(&self, share: &Share) -> Option<WorkspaceInfo> {
        let head = Head {
            workspace: share.id(),
            root: Digest::from_bytes([0; 32]),
            provisional: false,
            sequence: 0,
            created: 0,
            mode: 0,
            modified: (0, 0),
            files: 0,
            bytes: 0,
        };
        Some(WorkspaceInfo {
            id: share.id(),
            name: share.manifest().name.clone(),
            description: String::new(),
            tags: Vec::new(),
            path: OwnerPath::new(&b"/hidden"[..]).ok()?,
            head: SignedHead::sign(head, &self.own.identity),
            environments: Vec::new(),
            access: access_of(share),
            allowed: false,
        })
    }

    /// What `reader` needs to have parts of what it may read from others.
    fn grants(&self, shares: &[Arc<Share>], reader: Option<NodeId>) -> Vec<Grant> {
        let Some(reader) = reader else { return Vec::new() };
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        let issued = now / RENEWED * RENEWED;
        let readable = shares.iter().filter(|share| self.may_read(share, Some(reader)));
        let grant = |share: &Arc<Share>| {
            let id = share.id();
            let holders = self.readers().holders(&id, Instant::now());
            let may_hold = |node: &NodeId| *node != reader && self.may_read(share, Some(*node));
            Grant {
                capability: Capability::sign(&self.own.identity, id, reader, issued, issued + VALID),
                holders: holders.into_iter().filter(may_hold).collect(),
            }
        };
        readable.map(grant).collect()
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        // Every change is complete before anything can panic.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another text whenever somebody's catalogue may have changed, for the beacon.
    ///
    /// The signatures in what it's made from are why nothing can be guessed by it.
    pub(crate) fn tag(&self) -> String {
        let shares = self.shares.list();
        tag_of(&shares.iter().filter_map(|share| self.described(share)).collect::<Vec<_>>())
    }
}

/// A text that changes with what is listed.
fn tag_of(listed: &impl Serialize) -> String {
    // Serialising plain data can't fail; should it, another tag only costs a look.
    Digest::of(&serde_json::to_vec(listed).unwrap_or_default()).to_string()
}

/// What the share service serves of this node's own.
impl Sharing {
    pub(crate) fn node(&self) -> NodeInfo {
        NodeInfo {
            peer_id: self.own.identity.id(),
            hostname: self.own.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            features: Vec::new(),
            port: self.own.port,
        }
    }

    pub(crate) fn catalogue(&self, reader: Option<NodeId>) -> Catalogue {
        let shares = self.shares.list();
        let known = shares.iter().filter(|share| self.may_know(share, reader));
        let workspaces: Vec<_> = known.filter_map(|share| self.info(share, reader)).collect();
        let grants = self.grants(&shares, reader);
        Catalogue { tag: tag_of(&(&workspaces, &grants)), workspaces, grants }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What launches are known to read of the workspaces that are shared, as they ask for it.
    pub(crate) fn expected(&self) -> Vec<ExpectedPieces> {
        let of_share = |share: Arc<Share>| {
            let touched = |Touched { path, groups }: Touched| {
                let blob = share.content(&path)?;
                let there = groups.intersection::<[u64; 2]>(&Groups::from(0..blob.groups()));
                Some(slices(&there).map(|groups| (blob, groups)).collect::<Vec<_>>())
            };
            let profiles = self.profiles.list(&share.id());
            let pieces = profiles.into_iter().flat_map(Vec::from).filter_map(touched).flatten().collect();
            let reader = Some(self.own.identity.id());
            let workspace = Opened { sharing: self.this.clone(), share: share.clone(), reader };
            (Arc::new(workspace) as Arc<dyn ServedWorkspace>, pieces)
        };
        self.shares.list().into_iter().map(of_share).collect()
    }

    pub(crate) fn workspace(
        &self,
        id: &WorkspaceId,
        reader: Option<NodeId>,
    ) -> Result<Arc<dyn ServedWorkspace>, Refusal> {
        let share = self.shares.get(id).ok_or(Refusal::Unknown)?;
        if self.may_read(&share, reader) {
            return Ok(Arc::new(Opened { sharing: self.this.clone(), share, reader }));
        }
        if !self.may_know(&share, reader) {
            return Err(Refusal::Unknown);
        }
        if let Some(reader) = reader
            && share.access() == Access::Ask
            && self.decision(&share, Some(reader)).is_none()
        {
            self.ask(&share, reader, false);
        }
        Err(Refusal::Denied)
    }
}

/// Notes who asks for access, unless that is noted. When there is no room the oldest request makes way: should a
/// crowd ask, whoever still wants access asks again.
fn note_request(requests: &mut Requests, request: (WorkspaceId, NodeId), asked: Asked) -> bool {
    if requests.contains_key(&request) {
        return false;
    }
    while requests.len() >= MAX_REQUESTS {
        let oldest = requests.iter().min_by_key(|(_, asked)| asked.at).map(|(request, _)| *request);
        let Some(oldest) = oldest else { break };
        requests.remove(&oldest);
    }
    requests.insert(request, asked);
    true
}

fn access_of(share: &Share) -> peer::Access {
    match share.access() {
        Access::Public => peer::Access::Public,
        Access::Ask => peer::Access::Ask,
        Access::Peers => peer::Access::Peers,
    }
}

/// A share that the reader may read, for as long as that is so.
struct Opened {
    sharing: Weak<Sharing>,
    share: Arc<Share>,
    reader: Option<NodeId>,
}

impl Opened {
    /// The share, unless it was closed to the reader meanwhile: a batch may take long.
    fn share(&self) -> Option<&Share> {
        let sharing = self.sharing.upgrade()?;
        let current = sharing.shares.get(&self.share.id())?;
        (Arc::ptr_eq(&current, &self.share) && sharing.may_read(&current, self.reader))
            .then_some(&*self.share)
    }

    fn open(&self) -> Result<&Share, ServeError> {
        self.share().ok_or(ServeError::Unknown)
    }

    fn local(&self, blob: &Blob) -> Result<LocalBlob, ServeError> {
        let local = self.open()?.blob(&blob.digest).map_err(refused)?;
        if local.size() == blob.size { Ok(local) } else { Err(ServeError::Unknown) }
    }
}

fn refused(error: publish::ServeError) -> ServeError {
    match error {
        publish::ServeError::Unknown => ServeError::Unknown,
        publish::ServeError::Changed => ServeError::Changed,
        publish::ServeError::Io(error) => ServeError::Io(error),
    }
}

impl ServedWorkspace for Opened {
    fn history(&self) -> Vec<Snapshot> {
        let (Some(sharing), Some(share)) = (self.sharing.upgrade(), self.share()) else { return Vec::new() };
        sharing.history.list(&share.id()).unwrap_or_else(|error| {
            tracing::warn!(%error, "earlier snapshots can't be listed");
            Vec::new()
        })
    }

    fn may_write(&self) -> bool {
        let Some(sharing) = self.sharing.upgrade() else { return false };
        if sharing.may_write(&self.share, self.reader) {
            return true;
        }
        if let Some(reader) = self.reader {
            sharing.ask(&self.share, reader, true);
        }
        false
    }

    fn take(&self, edit: Edit) -> Result<Incoming, EditError> {
        match self.sharing.upgrade() {
            Some(sharing) if sharing.may_write(&self.share, self.reader) => self.share.take(edit),
            _ => Err(EditError::Invalid("the owner doesn't let you change this workspace")),
        }
    }

    fn tree(&self, digest: &Digest) -> Option<Bytes> {
        let share = self.share()?;
        // One of an earlier snapshot's, perhaps.
        share.tree(digest).or_else(|| self.sharing.upgrade()?.history.tree(&share.id(), digest))
    }

    fn blob(&self, digest: &Digest) -> Result<Bytes, ServeError> {
        let blob = self.open()?.blob(digest).map_err(refused)?;
        blob.read_whole().map(|blob| blob.bytes().clone()).map_err(refused)
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Result<Vec<u8>, ServeError> {
        self.local(blob)?.slice(groups).map_err(refused)
    }

    fn check(&self, blob: &Blob) -> Result<(), ServeError> {
        self.local(blob).map(|_| ())
    }

    fn outline(&self, blob: &Blob, window: u64) -> Result<Vec<u8>, ServeError> {
        let local = self.open()?.blob(&blob.digest).map_err(refused)?;
        if local.size() != blob.size {
            return Err(ServeError::Unknown);
        }
        local.outline(window).map_err(refused)
    }

    fn pending(&self, path: &[Name], token: u64, offset: u64, length: u32) -> Result<Vec<u8>, ServeError> {
        self.open()?.pending(path, token, offset, length).map_err(refused)
    }

    fn profile(&self, program: &PathKey) -> Profile {
        match (self.share(), self.sharing.upgrade()) {
            (Some(share), Some(sharing)) => sharing.profiles.get(&share.id(), program),
            _ => Profile::default(),
        }
    }

    fn offer(&self, program: &PathKey, profile: Profile) {
        if let (Some(share), Some(sharing)) = (self.share(), self.sharing.upgrade()) {
            sharing.profiles.merge(&share.id(), program, profile);
        }
    }

    fn co_readers(&self, pieces: &[PieceRequest]) -> Vec<NodeId> {
        let (Some(sharing), Some(reader)) = (self.sharing.upgrade(), self.reader) else { return Vec::new() };
        let others = sharing.readers().note(self.share.id(), reader, pieces, Instant::now());
        others.into_iter().filter(|node| sharing.may_read(&self.share, Some(*node))).collect()
    }
}

/// The names of what anybody may know of, for the beacon, which everybody on the network hears.
pub(crate) fn names(shares: &[Arc<Share>]) -> Vec<WorkspaceName> {
    let open = shares.iter().filter(|share| matches!(share.access(), Access::Public | Access::Ask));
    let names: BTreeSet<_> = open.map(|share| share.manifest().name.clone()).collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests;
