//! This node as an owner: what it shares, who may read it, and who asks to.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use twinshare::{
    access::{Access, Right, Rights},
    blob::{Blob, Groups, slices},
    peer::{
        Capability, Catalogue, ExpectedPieces, Grant, Head, Identity, MAX_REVOKED, NodeInfo, OwnerPath,
        PieceRequest, Refusal, ServeError, ServedWorkspace, SignedHead, VisitRefusal, Visited, WorkspaceInfo,
    },
    profile::{Profile, Touched},
    publish::{
        self, EditError, History, Incoming, Keeping, LocalBlob, PublishError, Retention, Share, ShareOptions,
        Shares,
    },
    tree::{Edit, Snapshot},
    types::{Digest, HostName, Name, NodeId, PathKey, WorkspaceId, WorkspaceName},
};

use crate::{
    consent::{Consent, Subject},
    files::{self, FileError},
    launches::Profiles,
    readers::Readers,
    visitors::Visitors,
};

/// What clients without a node may do that know the password.
const VISITORS: Rights = Rights::of(&[Right::Clone]);

/// How others are told that this node also serves without encryption.
const PLAIN: &str = "plain-http";

/// Capabilities are given anew so often, in seconds …
const RENEWED: u64 = 60;

/// … and are valid for so long. Whoever judges one may know the owner's time only as of the last renewal, so that access
/// that was taken back ends after five minutes everywhere.
const VALID: u64 = 240;

/// Nobody takes one for valid that was given longer ago.
const VOID: Duration = Duration::from_secs(VALID + 60);

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
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shared {
    path: PathBuf,
    name: WorkspaceName,
    /// Its identity; none in what an earlier version has written.
    #[serde(default)]
    id: Option<WorkspaceId>,
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

/// Who this node is.
pub(crate) struct Own {
    pub(crate) identity: Arc<Identity>,
    pub(crate) host: HostName,
    /// Where its share service listens.
    pub(crate) port: u16,
    /// Whether it also serves without encryption.
    pub(crate) plain: bool,
}

/// This node as an owner.
pub(crate) struct Sharing {
    own: Own,
    shares: Arc<Shares>,
    file: PathBuf,
    book: Mutex<Book>,
    readers: Mutex<Readers>,
    profiles: Arc<Profiles>,
    history: Arc<History>,
    consent: Arc<Consent>,
    visitors: Visitors,
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
        consent: Arc<Consent>,
    ) -> Result<Arc<Self>, FileError> {
        let file = state.join("shares.json");
        let book = files::read_json(&file)?.unwrap_or_default();
        let sharing = Arc::new_cyclic(|this| Self {
            own,
            shares,
            file,
            book: Mutex::new(book),
            readers: Mutex::new(Readers::new()),
            profiles,
            history,
            consent,
            visitors: Visitors::new(),
            changed: watch::Sender::new(0),
            this: this.clone(),
        });
        let (mut heads, mut decisions) = (sharing.shares.changes(), sharing.consent.changes());
        let weak = Arc::downgrade(&sharing);
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = heads.changed() => changed,
                    changed = decisions.changed() => changed,
                };
                let (Ok(()), Some(sharing)) = (changed, weak.upgrade()) else { return };
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
            before.as_ref().map_or_else(Default::default, |before| (before.access, before.retention));
        let access = options.access.unwrap_or(access);
        let retention = Retention {
            snapshots: options.snapshots.unwrap_or(retention.snapshots),
            content: options.keep.unwrap_or(retention.content),
        };
        let share = self.shares.add(path, ShareOptions { name: options.name, access, retention })?;
        let (path, name) = (share.root_path().to_path_buf(), share.manifest().name.clone());
        let shared = Shared { path, name: name.clone(), id: Some(share.id()), access, retention };
        let kept = self.change(|book| {
            book.shares.retain(|other| other.path != shared.path);
            book.shares.push(shared.clone());
        });
        if let Err(error) = kept {
            // What the user is told has failed isn't in force: it is shared as before, or not at all.
            let undone = match before {
                Some(Shared { access, retention, .. }) => {
                    self.shares.add(&shared.path, ShareOptions { name: None, access, retention }).map(drop)
                }
                None => self.shares.remove(&name),
            };
            if let Err(error) = undone {
                tracing::warn!(%error, workspace = %name, "a share that can't be kept can't be ended either");
            }
            return Err(error.into());
        }
        self.notify();
        Ok(share)
    }

    /// Changes the book on disk and then for all to see.
    fn change(&self, change: impl FnOnce(&mut Book)) -> Result<(), FileError> {
        let mut book = self.book();
        let mut changed = Book { shares: book.shares.clone() };
        change(&mut changed);
        files::write_json(&self.file, &changed)?;
        *book = changed;
        Ok(())
    }

    /// Ends the sharing of a workspace, also of one that couldn't be shared again; its folder stays.
    ///
    /// [`PublishError::Unknown`] if there is none of this name.
    pub(crate) fn unshare(&self, name: &WorkspaceName) -> Result<(), SharingError> {
        let live = self.find(name);
        let (path, id) = match &live {
            // In the book it may have another name: that of when it was shared.
            Some(share) => (share.root_path().to_path_buf(), Some(share.id())),
            None => {
                let live: BTreeSet<_> =
                    self.list().iter().map(|share| share.root_path().to_path_buf()).collect();
                let book = self.book();
                let mut lost = book.shares.iter().filter(|shared| !live.contains(&shared.path));
                lost.find(|shared| shared.name == *name)
                    .map(|shared| (shared.path.clone(), shared.id))
                    .ok_or_else(|| PublishError::Unknown(name.clone()))?
            }
        };
        // First the disk: what the user is told has ended mustn't come back with the next start.
        self.change(|book| book.shares.retain(|shared| shared.path != path))?;
        if let Some(share) = live {
            self.shares.remove(name)?;
            share.drop_content(&HashSet::new());
        }
        if let Some(id) = id {
            self.profiles.forget(&id);
            if let Err(error) = self.history.forget(&id) {
                tracing::warn!(%error, "the history of a workspace can't be forgotten");
            }
            self.consent.forget(&id)?;
        }
        self.notify();
        Ok(())
    }

    /// What the user has decided about others.
    pub(crate) fn consent(&self) -> &Consent {
        &self.consent
    }

    /// What `reader` may do with a workspace; `None` stands for whoever hasn't said who they are.
    fn rights(&self, share: &Share, reader: Option<NodeId>) -> Rights {
        if reader == Some(self.own.identity.id()) {
            return Rights::ALL;
        }
        self.consent.rights(&share.id(), share.access(), reader)
    }

    /// Whether `reader` may know that the workspace exists.
    fn may_know(&self, share: &Share, reader: Option<NodeId>) -> bool {
        match share.access() {
            Access::Public => true,
            Access::Ask | Access::Password => reader.is_some(),
            Access::Peers => !self.rights(share, reader).is_empty(),
        }
    }

    fn info(&self, share: &Share, reader: Option<NodeId>) -> Option<WorkspaceInfo> {
        let rights = self.rights(share, reader);
        if rights.has(Right::Browse) { self.described(share, rights) } else { self.hidden(share) }
    }

    /// What whoever may look into the workspace is told.
    fn described(&self, share: &Share, rights: Rights) -> Option<WorkspaceInfo> {
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
            access: share.access(),
            rights,
        })
    }

    /// What whoever may know of the workspace, but not look into it, is told: its name, and nothing of what is in it.
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
            access: share.access(),
            rights: Rights::NONE,
        })
    }

    /// What `reader` needs to have parts of what it may read from others.
    fn grants(&self, shares: &[Arc<Share>], reader: Option<NodeId>) -> Vec<Grant> {
        let Some(reader) = reader else { return Vec::new() };
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        let issued = now / RENEWED * RENEWED;
        let readable = shares.iter().filter(|share| self.rights(share, Some(reader)).has(Right::Read));
        let grant = |share: &Arc<Share>| {
            let id = share.id();
            let now = Instant::now();
            let (holders, given) = {
                let mut readers = self.readers();
                readers.give(id, reader, VOID, now);
                (readers.holders(&id, now), readers.given(&id, VOID, now))
            };
            let may_read = |node: &NodeId| self.rights(share, Some(*node)).has(Right::Read);
            let revoked = given.into_iter().filter(|node| !may_read(node)).take(MAX_REVOKED).collect();
            Grant {
                capability: Capability::sign(&self.own.identity, id, reader, issued, issued + VALID),
                holders: holders.into_iter().filter(|node| *node != reader && may_read(node)).collect(),
                revoked,
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
        tag_of(&shares.iter().filter_map(|share| self.described(share, Rights::ALL)).collect::<Vec<_>>())
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
            features: self.own.plain.then(|| PLAIN.to_owned()).into_iter().collect(),
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
            (self.opened(share, Who::Node(reader)), pieces)
        };
        self.shares.list().into_iter().map(of_share).collect()
    }

    fn opened(&self, share: Arc<Share>, who: Who) -> Arc<dyn ServedWorkspace> {
        Arc::new(Opened { sharing: self.this.clone(), share, who })
    }

    /// The names of what clients without a node may ask for.
    pub(crate) fn visitable(&self) -> Vec<WorkspaceName> {
        let shares = self.shares.list();
        let open = shares.iter().filter(|share| matches!(share.access(), Access::Public | Access::Password));
        let names: BTreeSet<_> = open.map(|share| share.manifest().name.clone()).collect();
        names.into_iter().collect()
    }

    /// Opens a workspace for a client without a node. Blocks for as long as checking the password takes.
    pub(crate) fn visit(
        &self,
        name: &WorkspaceName,
        password: Option<&str>,
        from: IpAddr,
    ) -> Result<Visited, VisitRefusal> {
        let share = self.find(name).ok_or(VisitRefusal::Unknown)?;
        let who = match share.access() {
            Access::Public => Who::Node(None),
            Access::Password => {
                let stored = self.consent.password(&share.id()).ok_or(VisitRefusal::Unknown)?;
                self.visitors.check(&stored, password, from, std::time::Instant::now())?;
                Who::Visitor(stored)
            }
            Access::Ask | Access::Peers => return Err(VisitRefusal::Unknown),
        };
        Ok((share.head().root, self.opened(share, who)))
    }

    pub(crate) fn workspace(
        &self,
        id: &WorkspaceId,
        reader: Option<NodeId>,
    ) -> Result<Arc<dyn ServedWorkspace>, Refusal> {
        let share = self.shares.get(id).ok_or(Refusal::Unknown)?;
        if !self.rights(&share, reader).is_empty() {
            return Ok(self.opened(share, Who::Node(reader)));
        }
        if !self.may_know(&share, reader) {
            return Err(Refusal::Unknown);
        }
        if let Some(reader) = reader.filter(|_| matches!(share.access(), Access::Ask | Access::Password)) {
            self.consent.ask(&subject(&share), reader, false);
        }
        Err(Refusal::Denied)
    }
}

fn subject(share: &Share) -> Subject {
    Subject { id: share.id(), name: share.manifest().name.clone() }
}

/// A share that the reader may use, for as long as that is so.
struct Opened {
    sharing: Weak<Sharing>,
    share: Arc<Share>,
    who: Who,
}

/// Who uses a share.
enum Who {
    /// A node; none is a client that hasn't said who it is.
    Node(Option<NodeId>),
    /// A client without a node, who knew the password of this hash.
    Visitor(String),
}

impl Opened {
    fn reader(&self) -> Option<NodeId> {
        match self.who {
            Who::Node(reader) => reader,
            Who::Visitor(_) => None,
        }
    }

    /// The share, if the reader has this right and it's shared still: a batch may take long.
    fn share(&self, right: Right) -> Option<&Arc<Share>> {
        let sharing = self.sharing.upgrade()?;
        let current = sharing.shares.get(&self.share.id())?;
        let rights = match &self.who {
            Who::Node(reader) => sharing.rights(&current, *reader),
            // Until the password or the rule is another one.
            Who::Visitor(hash) => {
                let is_open = current.access() == Access::Password
                    && sharing.consent.password(&current.id()).as_ref() == Some(hash);
                if is_open { VISITORS } else { Rights::NONE }
            }
        };
        (Arc::ptr_eq(&current, &self.share) && rights.has(right)).then_some(&self.share)
    }

    fn open(&self) -> Result<&Share, ServeError> {
        self.share(Right::Read).map(|share| &**share).ok_or(ServeError::Denied)
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
        let (Some(sharing), Some(share)) = (self.sharing.upgrade(), self.share(Right::Browse)) else {
            return Vec::new();
        };
        sharing.history.list(&share.id()).unwrap_or_else(|error| {
            tracing::warn!(%error, "earlier snapshots can't be listed");
            Vec::new()
        })
    }

    fn may_write(&self) -> bool {
        self.share(Right::Write).is_some()
    }

    fn ask_to_write(&self) {
        // Who may not even read it has no business with it.
        if let (Some(reader), Some(share), Some(sharing)) =
            (self.reader(), self.share(Right::Read), self.sharing.upgrade())
        {
            sharing.consent.ask(&subject(share), reader, true);
        }
    }

    fn take(&self, edit: Edit) -> Result<Incoming, EditError> {
        let denied = EditError::Invalid("the owner doesn't let you change this workspace");
        self.share(Right::Write).ok_or(denied)?.take(edit)
    }

    fn tree(&self, digest: &Digest) -> Option<Bytes> {
        let share = self.share(Right::Browse)?;
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
        match (self.share(Right::Run), self.sharing.upgrade()) {
            (Some(share), Some(sharing)) => sharing.profiles.get(&share.id(), program),
            _ => Profile::default(),
        }
    }

    fn offer(&self, program: &PathKey, profile: Profile) {
        if let (Some(share), Some(sharing)) = (self.share(Right::Run), self.sharing.upgrade()) {
            sharing.profiles.merge(&share.id(), program, profile);
        }
    }

    fn co_readers(&self, pieces: &[PieceRequest]) -> Vec<NodeId> {
        let (Some(sharing), Some(reader)) = (self.sharing.upgrade(), self.reader()) else {
            return Vec::new();
        };
        let others = sharing.readers().note(self.share.id(), reader, pieces, Instant::now());
        others.into_iter().filter(|node| sharing.rights(&self.share, Some(*node)).has(Right::Read)).collect()
    }
}

/// The names of what anybody may know of, for the beacon, which everybody on the network hears.
pub(crate) fn names(shares: &[Arc<Share>]) -> Vec<WorkspaceName> {
    let open = shares.iter().filter(|share| share.access() != Access::Peers);
    let names: BTreeSet<_> = open.map(|share| share.manifest().name.clone()).collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests;
